"""The indicator over the steps, or the prediction error: the curve that the decisions follow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bwcache.core.trace import Event, Trace
from bwcache.extras import need
from bwcache.report.letters import set_title

BLUE, ORANGE, GREEN, GREY, RED = "#2a6fbb", "#e08a2e", "#cfe8cf", "#ececec", "#c0392b"
INK = "#222222"
INDICATOR, ERROR, VALUE = "indicator", "prediction error", "number decided by"
MEANING = {
    INDICATOR: "change since the last computed step\n(relative, mean over the blocks)",
    ERROR: "error that a prediction would have had\n(relative, of the last block's output)",
    VALUE: "the number that each decision rests on\n(in the policy's own unit)",
}
BRANCH_COLOURS = (BLUE, ORANGE, "#6a51a3", "#2f8f83")


def plot_similarity(trace: Trace, path: Path, threshold: float | None = None, title: str = "") -> None:
    """Write a PNG: the curve at each computed step, one line per branch, threshold, and what was done at each step.

    Args:
        trace: of one run.
        path: of the PNG.
        threshold: drawn as a line; None for policies without one.
        title: usually the prompt.
    """
    need("plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = step_kinds(trace)
    _shade(axes, kinds)
    _draw_curves(axes, trace)
    _mark_computed(axes, kinds)
    _draw_threshold(axes, threshold)
    _dress(axes, trace, kinds, title)
    figure.savefig(path)


def step_kinds(trace: Trace) -> dict[int, str]:
    """What each step was: "reused", "guarded" (computed because of the tail guard), "mixed" or "computed"."""
    kinds: dict[int, set[str]] = {}
    for event in trace.events:
        kinds.setdefault(event.step, set()).add(_kind(event))
    return {step: found.pop() if len(found) == 1 else "mixed" for step, found in sorted(kinds.items())}


def curves(trace: Trace) -> dict[str, list[tuple[int, float]]]:
    """For each branch, its (step, value) points of the curve; branches with equal points are drawn as one."""
    points: dict[str, list[tuple[int, float]]] = {}
    drawn = curve_name(trace)
    name = {INDICATOR: "indicator", ERROR: "error", VALUE: "value"}[drawn]
    for event in trace.events:
        value = getattr(event, name)
        if (event.action != "reuse" or drawn == VALUE) and value is not None and math.isfinite(value):
            points.setdefault(event.branch, []).append((event.step, value))
    distinct: dict[str, list[tuple[int, float]]] = {}
    for branch, line in points.items():
        if line not in distinct.values():
            distinct[branch] = line
    return distinct


def curve_name(trace: Trace) -> str:
    """What the decisions follow: the indicator; else the prediction error; else the number that each rests on."""
    for name, field in ((INDICATOR, "indicator"), (ERROR, "error"), (VALUE, "value")):
        if any(getattr(event, field) is not None for event in trace.events):
            return name
    return INDICATOR


def _kind(event: Event) -> str:
    if event.action == "reuse":
        return "reused"
    return "guarded" if event.reason.startswith("tail guard") else "computed"


def _shade(axes: Any, kinds: dict[int, str]) -> None:
    colours = {"reused": (GREEN, "reused"), "guarded": (GREY, "tail guard"), "mixed": ("#eef6d8", "mixed")}
    named: set[str] = set()
    for step, kind in kinds.items():
        if kind in colours:
            colour, label = colours[kind]
            axes.axvspan(step - 0.5, step + 0.5, color=colour, lw=0, zorder=0, label=None if kind in named else label)
            named.add(kind)


def _draw_curves(axes: Any, trace: Trace) -> None:
    """Solid from step to step, dotted across reused ones; earlier branches broader, so that equal curves both show."""
    lines = curves(trace)
    for index, (branch, line) in enumerate(lines.items()):
        colour = BRANCH_COLOURS[index % len(BRANCH_COLOURS)]
        broad = max(0.0, 1.0 - index) if len(lines) > 1 else 0.5
        steps, values = zip(*line, strict=True)
        axes.plot(steps, values, color=colour, lw=1 + broad, ls=(0, (1, 2)), zorder=3)
        for start in range(len(line) - 1):
            if steps[start + 1] == steps[start] + 1:
                axes.plot(steps[start : start + 2], values[start : start + 2], color=colour, lw=1.4 + broad, zorder=3)
        name = curve_name(trace)
        label = name if len(lines) == 1 else f"{name}, {branch}"
        axes.plot(steps, values, "o", color=colour, ms=4.4 + 2.6 * broad, mec="white", mew=0.7, zorder=4, label=label)


def _mark_computed(axes: Any, kinds: dict[int, str]) -> None:
    """A tick on the axis for each computed step, also for those that had nothing to compare with."""
    from matplotlib.transforms import blended_transform_factory

    steps = [step for step, kind in kinds.items() if kind in ("computed", "guarded")]
    across = blended_transform_factory(axes.transData, axes.transAxes)
    axes.plot(steps, [0.014] * len(steps), "|", color=INK, ms=9, mew=1.6, transform=across, zorder=5, label="computed")


def _draw_threshold(axes: Any, threshold: float | None) -> None:
    if threshold:
        axes.axhline(threshold, color=RED, lw=1.3, ls=(0, (5, 3)), zorder=2, label=f"threshold {threshold:g}")


def _dress(axes: Any, trace: Trace, kinds: dict[int, str], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    last = max(kinds, default=0)
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    axes.set_xlabel("denoising step")
    axes.set_ylabel(MEANING[curve_name(trace)])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6, zorder=1)
    axes.set_axisbelow(True)
    counts = f"{trace.steps} steps: {trace.computed} computed, {trace.reused} reused"
    k = trace.first_trigger
    counts += "" if k is None else f", first at step {k}"
    figure = axes.figure
    set_title(figure, _short(title) if title else "Change from one computed step to the next")
    axes.set_title(counts, fontsize=10, color="#555555")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _short(text: str, most: int = 96) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
