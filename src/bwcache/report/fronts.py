"""Speed against closeness: every row of a study as a point, families in colours, the Pareto front below them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bwcache.extras import need
from bwcache.report.letters import set_title
from bwcache.report.studies import FRONTS, MEASURES, families
from bwcache.study.results import CEILING, HIGHER_IS_BETTER, Axis, Result, front

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#8c564b")
GREYS = ("#222222", "#777777", "#a8a8a8")
MARKERS = "osD^vP*X"
LINES = ("-", "-.", ":", (0, (5, 1, 1, 1)))
FRONT = "#ffe08a"
MOST_SERIES = 6
AXES = {"time": "denoising speedup", "compute": "speedup if only the blocks' work took time"}


def plot_fronts(rows: Sequence[Result], path: Path, title: str = "", axis: Axis = "time") -> None:
    """Write a PNG: one panel per measure (PSNR, SSIM, LPIPS where it is there); higher and further right is better.

    Args:
        rows: of a study.
        path: of the PNG.
        title: above all panels.
        axis: what speed is counted in.
    """
    need("plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [name for name in FRONTS if any(row.mean(name) is not None for row in rows)] or ["psnr"]
    figure = Figure(figsize=(1.6 + 6.0 * len(shown), 6.2), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    styles = _styles(rows)
    for panel, measure in zip(panels, shown, strict=True):
        _draw_front(panel, rows, measure, axis)
        for name, own in series(rows).items():
            _draw_series(panel, name, own, measure, axis, styles[name])
        _dress(panel, rows, measure, axis)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, max(1, len(labels))), frameon=False)
    if title:
        set_title(figure, title)
    figure.savefig(path, format="png")


def series(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """What one line connects: the rows of a family that differ in one number only, most work first.

    The number with the most values is the ladder that a line goes along; what else varies tells the lines of a family
    apart, unless that makes too many of them.
    """
    found: dict[str, list[Result]] = {}
    for family, own in families(row for row in rows if row.cells).items():
        apart = _apart(own)
        lines: dict[str, list[Result]] = {}
        for row in own:
            words = ", ".join(f"{name} {_plain(row.settings[name])}" for name in apart)
            lines.setdefault(f"{family} ({words})" if words else family, []).append(row)
        found |= lines if len(lines) <= MOST_SERIES else {family: own}
    return {name: sorted(own, key=lambda row: -(row.compute or 0.0)) for name, own in found.items()}


def _apart(own: Sequence[Result]) -> list[str]:
    """The settings that vary within a family, without its ladder."""
    values = {name: {str(row.settings.get(name)) for row in own} for name in own[0].settings}
    varying = [name for name, seen in values.items() if len(seen) > 1]
    numbers = [name for name in varying if all(isinstance(row.settings.get(name), (int, float)) for row in own)]
    ladder = max(numbers, key=lambda name: len(values[name]), default=None)
    return [name for name in varying if name != ladder]


def _styles(rows: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """A colour per family, greys for fewer steps; a marker per line of a family."""
    colours, greys = iter(COLOURS * 4), iter(GREYS * 4)
    of_family: dict[str, str] = {}
    seen: dict[str, int] = {}
    styles = {}
    for name, own in series(rows).items():
        family = own[0].family
        if family not in of_family:
            of_family[family] = next(greys if family.startswith("fewer steps") else colours)
        place = seen[family] = seen.get(family, -1) + 1
        dashes = "--" if family.startswith("fewer steps") else LINES[place % len(LINES)]
        styles[name] = {"color": of_family[family], "marker": MARKERS[place % len(MARKERS)], "ls": dashes}
    return styles


def _height(row: Result, measure: str) -> float | None:
    """Where a row stands: its mean, in which an identical video counts as the ceiling; None if it was not measured."""
    value = row.mean(measure)
    if measure == "psnr" and row.cells:
        differing = len(row.cells) - row.identical
        return ((value or 0.0) * differing + CEILING * row.identical) / len(row.cells)
    return value


def _points(rows: Sequence[Result], measure: str, axis: Axis) -> list[tuple[float, float, Result]]:
    top = _top(rows, measure)
    return [
        (speed, min(height, top), row)
        for row in rows
        if (speed := row.at(axis)) is not None and (height := _height(row, measure)) is not None
    ]


def _top(rows: Sequence[Result], measure: str) -> float:
    """Highest value that is drawn: rows with many identical videos would press all others down."""
    if measure != "psnr":
        return float("inf")
    known = [value for row in rows if not row.identical and (value := row.mean("psnr")) is not None]
    return max(known, default=50.0) + 4.0


def _draw_front(panel: Any, rows: Sequence[Result], measure: str, axis: Axis) -> None:
    best = _points(front(rows, measure, axis), measure, axis)
    if best:
        speeds, heights, _ = zip(*best, strict=True)
        panel.plot(speeds, heights, color=FRONT, lw=9, solid_capstyle="round", zorder=1, label="Pareto front")


def _draw_series(panel: Any, name: str, own: Sequence[Result], measure: str, axis: Axis, style: dict[str, Any]) -> None:
    points = _points(own, measure, axis)
    if not points:
        return
    speeds, heights, rows = zip(*points, strict=True)
    panel.plot(speeds, heights, label=name, lw=1.2, ms=6, mec="white", mew=0.6, zorder=3, alpha=0.95, **style)
    for speed, height, row in zip(speeds, heights, rows, strict=True):
        worst = row.worst(measure)
        if worst is not None:
            panel.plot([speed, speed], [worst, height], color=style["color"], lw=0.8, alpha=0.3, zorder=2)


def _dress(panel: Any, rows: Sequence[Result], measure: str, axis: Axis) -> None:
    panel.set_xlabel(AXES[axis])
    unit = " in dB" if measure == "psnr" else ""
    better = "" if HIGHER_IS_BETTER[measure] else ", lower is closer (axis turned)"
    panel.set_ylabel(f"{MEASURES[measure]}{unit}, mean over the videos{better}; thin: the worst")
    if not HIGHER_IS_BETTER[measure]:
        panel.invert_yaxis()
    if measure == "psnr" and any(row.identical for row in rows):
        panel.axhline(_top(rows, measure), color="#bbbbbb", lw=0.8, ls=":", zorder=0)
        panel.text(
            1.0, _top(rows, measure), "identical ", transform=panel.get_yaxis_transform(), ha="right", va="bottom"
        )
    panel.axvline(1.0, color="#999999", lw=0.9, ls=":", zorder=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#e4e4e4", lw=0.6, zorder=0)
    panel.set_axisbelow(True)


def _plain(value: Any) -> str:
    return str(value).removesuffix("()")
