"""A run as a small picture, to be read on a node: a row of cells for each branch, and under it what it went by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bwcache.core.trace import Event, Trace
from bwcache.extras import need
from bwcache.report.plots import BLUE, BRANCH_COLOURS, INK, VALUE, curve_name, curves

COLOURS = {"compute": BLUE, "check": "#8fb3dd", "reuse": "#cfe8cf"}
WORDS = {"compute": "computed", "check": "computed to check", "reuse": "reused"}
MOST_ROWS = 6
"""Branches that get a row; windows of frames may make many."""


def draw(trace: Trace, path: Path, title: str) -> None:
    """Write a PNG, 900 pixels wide.

    Raises:
        BWCacheError: matplotlib is missing.
    """
    need("plots")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    branches = sorted({event.branch for event in trace.events})[:MOST_ROWS]
    with mpl.rc_context({"font.size": 13}):
        figure = Figure((6.0, 3.2 + 0.35 * len(branches)), dpi=150, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        cells, below = figure.subplots(2, 1, sharex=True, height_ratios=[0.35 * len(branches), 1.6])
        figure.suptitle(title, fontsize=12)
        _draw_cells(cells, trace.events, branches)
        _draw_curve(below, trace)
        below.set_xlim(-0.5, max(event.step for event in trace.events) + 0.5)
        below.set_xlabel("evaluation of the model")
        figure.legend(*cells.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path)


def _draw_cells(axes: Any, events: list[Event], branches: list[str]) -> None:
    named: set[str] = set()
    for event in events:
        if event.branch in branches:
            label = None if event.action in named else WORDS[event.action]
            named.add(event.action)
            axes.barh(
                branches.index(event.branch), 1, left=event.step - 0.5, height=0.86, color=COLOURS[event.action],
                edgecolor="white", lw=0.8, label=label,
            )  # fmt: skip
    axes.set_yticks(range(len(branches)), branches)
    axes.set_ylim(len(branches) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_curve(axes: Any, trace: Trace) -> None:
    """The indicator or the prediction error where there is one, else the noise level."""
    from matplotlib.ticker import MaxNLocator

    lines = {} if curve_name(trace) == VALUE else curves(trace)
    for (branch, line), colour in zip(list(lines.items())[:MOST_ROWS], 2 * BRANCH_COLOURS, strict=False):
        axes.plot(*zip(*line, strict=True), "o-", color=colour, ms=5, lw=1.4, label=branch)
    axes.set_ylabel(curve_name(trace) if lines else "noise (sigma)")
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=11)
    if not lines:
        levels = {event.step: (event.sigma, event.action) for event in trace.events if event.sigma is not None}
        axes.plot(list(levels), [sigma for sigma, _ in levels.values()], color="#999999", lw=1.2, zorder=1)
        for action, colour in COLOURS.items():
            own = [(step, sigma) for step, (sigma, done) in levels.items() if done == action]
            if own:
                axes.plot(*zip(*own, strict=True), "o", color=colour, mec=INK, mew=0.6, ms=7, zorder=2)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=11, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
