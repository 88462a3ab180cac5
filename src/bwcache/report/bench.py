"""Every method of a bench in one picture, and what is to be said of those that saved nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bwcache.extras import need
from bwcache.report.letters import set_title
from bwcache.report.studies import LEVELS, doubts, families
from bwcache.study.results import CEILING, Axis, Result, front

OWN, PLAIN = ("BWCache",), ("fewer steps", "fixed interval")
"""How the families begin that are this project's method, and those that are baselines."""

OWN_COLOURS = ("#0072b2", "#d55e00", "#8c1d9e", "#b8860b")
PLAIN_COLOURS = ("#111111", "#555555", "#8a8a8a", "#5b7f5b", "#95b095")
PEER_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#8c564b", "#c0392b", "#3b8686", "#9bbb3c")
MARKERS = "osD^vP*Xph<>"
AXES: dict[Axis, str] = {"compute": "speedup if only the blocks' work took time", "time": "denoising speedup, measured"}


def saved_nothing(rows: Sequence[Result]) -> list[str]:
    """Labels of the rows that ran and skipped no work in the blocks."""
    return [row.label for row in rows if row.saved_nothing]


def remarks(rows: Sequence[Result]) -> dict[str, list[str]]:
    """What is to be said of the methods besides their figures, each thing once, with those whom it concerns.

    A method is named by its family where all of its settings are concerned, else by the settings.
    """
    found: dict[str, list[Result]] = {}
    for row in rows:
        said = [note for cell in row.cells for note in cell.notes] + [f"not measured: {why}" for why in row.unmeasured]
        if row.failed:
            said.append(f"failed: {row.failed}")
        said += doubts(row)
        if row.identical and not row.saved_nothing:
            said.append(f"{row.identical} of {len(row.cells)} videos identical")
        for text in dict.fromkeys(said):
            found.setdefault(text, []).append(row)
    return {text: _whom(concerned, rows) for text, concerned in found.items()}


def _whom(concerned: Sequence[Result], rows: Sequence[Result]) -> list[str]:
    if len(concerned) == len(rows):
        return ["all"]
    names: list[str] = []
    for family, own in families(rows).items():
        inside = [row for row in own if row in concerned]
        names += [family] if len(inside) == len(own) else [row.label for row in inside]
    return names


def plot_methods(rows: Sequence[Result], path: Path, title: str = "") -> None:
    """Write a PNG: PSNR against speedup by the blocks' work and by time, a line per method along its own best settings.

    Args:
        rows: of a bench.
        path: of the PNG.
        title: above both panels.
    """
    need("plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.5, 7.4), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    grouped = {name: own for name, own in families(rows).items() if any(row.cells for row in own)}
    looks = _looks(list(grouped))
    for panel, axis in zip(panels, AXES, strict=True):
        for name, own in grouped.items():
            _draw_method(panel, name, own, axis, looks[name])
        _dress(panel, axis)
    panels[0].set_ylabel("PSNR in dB against the uncached video, mean over the videos")
    panels[0].set_ylim(*_heights(rows))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=10)
    if title:
        set_title(figure, title)
    figure.savefig(path, format="png")


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Own methods thick, baselines dashed, peers each with a marker of its own."""
    found: dict[str, dict[str, Any]] = {}
    counts = {"own": 0, "plain": 0, "peer": 0}
    for name in names:
        kind = "own" if name.startswith(OWN) else "plain" if name.startswith(PLAIN) else "peer"
        place = counts[kind]
        counts[kind] += 1
        colours = {"own": OWN_COLOURS, "plain": PLAIN_COLOURS, "peer": PEER_COLOURS}[kind]
        found[name] = {
            "color": colours[place % len(colours)],
            "lw": 2.8 if kind == "own" else 1.3,
            "ls": "--" if kind == "plain" else "-",
            "marker": MARKERS[place % len(MARKERS)],
            "ms": 8 if kind == "own" else 5.5,
            "zorder": 5 if kind == "own" else 3,
        }
    return found


def _point(row: Result, axis: Axis) -> tuple[float, float] | None:
    """Speedup and mean PSNR, in which an identical video counts as the ceiling."""
    speed, psnr = row.at(axis), row.mean("psnr")
    if speed is None or not row.cells:
        return None
    differing = len(row.cells) - row.identical
    return speed, ((psnr or 0.0) * differing + CEILING * row.identical) / len(row.cells)


def _draw_method(panel: Any, name: str, own: Sequence[Result], axis: Axis, look: dict[str, Any]) -> None:
    best = [point for row in front(own, "psnr", axis) if (point := _point(row, axis)) is not None]
    others = [point for row in own if (point := _point(row, axis)) is not None and point not in best]
    if others:
        panel.plot(*zip(*others, strict=True), ls="", marker=look["marker"], color=look["color"], alpha=0.3, ms=4.5)
    if best:
        panel.plot(*zip(*best, strict=True), label=name, mec="white", mew=0.6, **look)


def _heights(rows: Sequence[Result]) -> tuple[float, float]:
    """From the worst mean to a little above the highest level: what lies beyond nobody can see."""
    known = [value for row in rows if (value := row.mean("psnr")) is not None]
    return min(known, default=LEVELS[0]) - 2, min(max(known, default=LEVELS[-1]), LEVELS[-1] + 15) + 2


def _dress(panel: Any, axis: Axis) -> None:
    panel.set_xlabel(AXES[axis])
    for level in LEVELS:
        panel.axhline(level, color="#d0d0d0", lw=0.9, zorder=0)
    panel.axvline(1.0, color="#999999", lw=0.9, ls=":", zorder=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#efefef", lw=0.6, axis="x", zorder=0)
    panel.set_axisbelow(True)
