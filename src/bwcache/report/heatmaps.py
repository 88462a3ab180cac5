"""Pictures of a profile: changes by block and step, the curve with its spread, where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bwcache.extras import need
from bwcache.report.letters import drawable, set_title
from bwcache.report.plots import BLUE, INK, ORANGE, RED
from bwcache.report.tables import percent
from bwcache.study.profile_curves import THRESHOLDS
from bwcache.study.profile_results import UNCACHED_PARTS, Profile, TimeSplit

PART_COLOURS = {"before": "#b8c4d6", "blocks": BLUE, "rest": "#7fb0e0", "between": ORANGE, "after": "#6a51a3"}
FAINT = "#666666"
MOST_LINES = 12
"""Single curves are drawn of so many videos at most."""


def plot_heatmap(profile: Profile, path: Path) -> None:
    """Write a PNG: the change of each block at each step, median over the videos; colours are logarithmic."""
    need("plots")
    from matplotlib.colors import LogNorm

    medians = _median_changes(profile).T
    blocks, steps = medians.shape
    figure, axes = _figure(9.6, min(max(3.2, 1.9 + 0.2 * blocks), 9.0))
    shown = medians[np.isfinite(medians) & (medians > 0)]
    norm = LogNorm(shown.min(), max(shown.max(), shown.min() * 1.01)) if shown.size else None
    image = axes.imshow(medians, aspect="auto", cmap="viridis", norm=norm, interpolation="nearest")
    axes.set_facecolor("#f4f4f4")
    _ticks(axes, steps, blocks)
    for boundary in _boundaries(profile):
        axes.axhline(boundary - 0.5, color="white", lw=2)
    axes.set_xlabel("denoising step")
    axes.set_ylabel("block, in the order of the forward")
    bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.045)
    bar.set_label("change since the step before (relative L1)")
    if norm:
        _plain_ticks(bar.ax.yaxis, shown.min(), shown.max())
    _title(figure, axes, "How much each block's output changes from step to step", _of(profile))
    figure.savefig(path, format="png")


def plot_curve(profile: Profile, path: Path) -> None:
    """Write a PNG: the indicator over the steps, its spread over the videos, and the thresholds."""
    median, low, high = profile.spread
    known = np.flatnonzero(np.isfinite(median) & (median > 0))  # the axis is logarithmic
    figure, axes = _figure(9.6, 4.9)
    many = len(profile.videos) > 1
    for curve in profile.curves[:MOST_LINES] if many else ():
        axes.plot(known, curve[known], color=BLUE, lw=0.7, alpha=0.35, zorder=3)
    if many:
        axes.fill_between(
            known, low[known], high[known], color=BLUE, alpha=0.16, lw=0, label="10 to 90 % of the videos"
        )
    name = "median of the videos" if many else "indicator"
    axes.plot(known, median[known], "o-", color=BLUE, lw=2, ms=4, mec="white", mew=0.6, zorder=4, label=name)
    axes.set_yscale("log")
    axes.set_xlim(0, len(median) - 0.5)
    _draw_thresholds(axes, profile)
    axes.set_xlabel("denoising step")
    axes.set_ylabel("indicator: change since the step before\n(relative, mean over the blocks)")
    _dress(axes)
    _plain_ticks(axes.yaxis, *axes.get_ylim())
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _title(figure, axes, f"The indicator's curve: {_shape_name(profile)}", _of(profile))
    figure.savefig(path, format="png")


def plot_latency(profile: Profile, path: Path) -> None:
    """Write a PNG: the parts of a call, the time of each block, and what reuse can save at most."""
    need("plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 6.2), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic([["parts", "parts"], ["blocks", "saved"]], height_ratios=[0.8, 1.55])
    _draw_parts(axes["parts"], profile.time)
    _draw_blocks(axes["blocks"], profile)
    _draw_saved(axes["saved"], profile.time)
    figure.suptitle("Where the time of a call goes", fontsize=12, weight="bold")
    figure.savefig(path, format="png")


def _draw_parts(axes: Any, split: TimeSplit) -> None:
    """One bar of all parts, the indicator behind it."""
    at = 0.0
    for part, name in UNCACHED_PARTS.items():
        width = getattr(split, part)
        share = width / split.seconds
        label = f"{name}: {_seconds(width)}, {percent(share)}"
        axes.barh(0, width, left=at, height=0.62, color=PART_COLOURS[part], label=label, edgecolor="white", lw=0.8)
        if share > 0.06:
            axes.text(at + width / 2, 0, percent(share, 0), ha="center", va="center", color="white", weight="bold")
        at += width
    label = f"extra, BWCache's indicator in every step: {_seconds(split.indicator)}"
    axes.barh(0, split.indicator, left=at, height=0.62, color="white", edgecolor=RED, hatch="////", lw=0.8, label=label)
    axes.set_yticks([])
    axes.set_xlim(0, (at + split.indicator) * 1.01)
    axes.set_xlabel(f"seconds of one uncached call ({split.forwards} forwards of the denoiser)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8.5)


def _draw_blocks(axes: Any, profile: Profile) -> None:
    """Milliseconds of each block."""
    known = [(i, 1000 * block.seconds) for i, block in enumerate(profile.blocks) if block.seconds is not None]
    axes.set_title("one call of each block", fontsize=10, color=FAINT)
    if not known:
        axes.text(0.5, 0.5, "blocks cannot be timed one by one", ha="center", va="center", transform=axes.transAxes)
    else:
        axes.bar(*zip(*known, strict=True), color=BLUE, width=0.75)
    axes.xaxis.set_major_locator(_whole_numbers(12))
    axes.set_xlabel("block")
    axes.set_ylabel("milliseconds")
    _dress(axes)


def _draw_saved(axes: Any, split: TimeSplit) -> None:
    """What a share of reused steps can save at most, of the denoising and of the whole call."""
    rates = np.linspace(0, 1, 51)
    saved = np.array([split.saved(rate) for rate in rates])
    axes.plot(100 * rates, 100 * rates, color=FAINT, lw=1, ls=(0, (2, 3)), label="as many as reused")
    axes.plot(100 * rates, 100 * saved[:, 0], color=BLUE, lw=2, label="of the denoising time")
    axes.plot(100 * rates, 100 * saved[:, 1], color=ORANGE, lw=2, label="of the whole call")
    axes.axhline(0, color=INK, lw=0.6)
    axes.set_xlim(0, 100)
    axes.set_title("what reuse can save at most", fontsize=10, color=FAINT)
    axes.set_xlabel("reused steps, %")
    axes.set_ylabel("time saved, %")
    _dress(axes)
    axes.legend(frameon=False, fontsize=8.5)


def _draw_thresholds(axes: Any, profile: Profile) -> None:
    """Dashed lines, and beside each how much of the steps lies below it; the model's own is stronger."""
    own = profile.threshold
    levels = dict(zip(THRESHOLDS, profile.below, strict=True))
    if own and own not in levels:
        levels[own] = float(np.mean(profile.curves[np.isfinite(profile.curves)] < own))
    for delta, share in levels.items():
        strong = delta == own
        axes.axhline(delta, color=RED, lw=1.3 if strong else 0.6, ls=(0, (5, 3)), alpha=1 if strong else 0.6, zorder=2)
        axes.annotate(
            f"{delta:.2f}: {percent(share, 0)} below",
            (1.0, delta),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=RED,
            weight="bold" if strong else "normal",
        )
    low = float(np.nanmin(profile.curves)) if np.isfinite(profile.curves).any() else 0.05
    high = float(np.nanmax(profile.curves)) if np.isfinite(profile.curves).any() else 0.3
    axes.set_ylim(min(max(low, 1e-4), min(levels)) * 0.8, max(high, *levels) * 1.15)


def _median_changes(profile: Profile) -> Any:
    """`[S, N]` over the videos."""
    from bwcache.study.profile_curves import spread

    return spread(profile.changes)[0]


def _boundaries(profile: Profile) -> list[int]:
    """Where another denoiser's blocks begin."""
    owners = [block.name.split("/")[0] for block in profile.blocks]
    return [i for i in range(1, len(owners)) if owners[i] != owners[i - 1]]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _ticks(axes: Any, steps: int, blocks: int) -> None:
    axes.xaxis.set_major_locator(_whole_numbers(16))
    axes.yaxis.set_major_locator(_whole_numbers(14))
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_ylim(blocks - 0.5, -0.5)


def _plain_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks with plain numbers, where a logarithmic axis would write powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    nice = [m * 10.0**e for e in range(-6, 4) for m in (1, 2, 5)]
    axis.set_major_locator(FixedLocator([value for value in nice if low <= value <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _whole_numbers(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, integer=True)


def _dress(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6, zorder=0)
    axes.set_axisbelow(True)


def _title(figure: Any, axes: Any, title: str, below: str) -> None:
    set_title(figure, title)
    line, family = drawable(below)
    axes.set_title(line, fontsize=10, color=FAINT, family=family, parse_math=False)


def _shape_name(profile: Profile) -> str:
    found = profile.shape
    if found.kind == "neither":
        return "neither a U nor an inverted L"
    return "a U" if found.kind == "U" else f"an inverted L, its arm at the {found.arm}"


def _of(profile: Profile) -> str:
    count = len(profile.videos)
    name = Path(profile.model["name"]).name if Path(profile.model["name"]).is_absolute() else profile.model["name"]
    return f"{name}, {len(profile.steps)} steps, {count} uncached video{'s' * (count > 1)}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"
