"""What the cells of a study amount to: one row per method, fronts, and the speedup at a given quality.

Means hide bad videos, so the worst one stands beside every mean. Confidence intervals are over videos (prompt and
seed): the videos are drawn again with replacement, 1000 times, and the middle 95 % is given.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from bwcache.core.kinds import is_number
from bwcache.study.folder import Cell

DRAWS = 1000
CEILING = 100.0
"""PSNR in dB that an identical video counts as, where one number is needed for all of them."""

NOTHING = 0.005
"""Share of the blocks' work: who saved less, saved nothing, and no time of its is a speedup."""
MORE_THAN_POSSIBLE = 1.1
"""So many times what its work allows is more than the time of one call varies on a quiet machine."""
MORE_BY_PARTS = 1.5
"""The same for a cache that skips parts of blocks: operations of attention take longer than those of other layers."""

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "ms_ssim": True, "lpips": False, "vmaf": True, "xpsnr": True}

BEST_AT_ONE = {"motion_kept"}
"""Of which neither more nor less is closer."""

Axis = Literal["compute", "time"]
"""What a speedup is counted in: the blocks' operations, which do not vary, or the denoising time."""


@dataclass(frozen=True)
class Result:
    """One method over all videos.

    Attributes:
        family, label, settings: of the method.
        cells: its finished runs.
        failed: why there are none.
    """

    family: str
    label: str
    settings: dict[str, Any]
    cells: tuple[Cell, ...]
    failed: str | None = None

    @property
    def compute(self) -> float | None:
        """Share of the blocks' work that was done, mean, 0..1."""
        return _mean(cell.compute for cell in self.cells)

    @property
    def saved(self) -> float | None:
        """Share of the blocks' work that was not done, mean, 0..1."""
        return None if self.compute is None else 1 - self.compute

    @property
    def speedup(self) -> float | None:
        """Of the whole calls: the uncached ones' seconds over these."""
        return _ratio([(cell.uncached_seconds, cell.seconds) for cell in self.cells])

    @property
    def denoise_speedup(self) -> float | None:
        """Of the denoising alone."""
        return _ratio([(cell.uncached_denoise_seconds, cell.denoise_seconds) for cell in self.cells])

    @property
    def compute_speedup(self) -> float | None:
        """What the saved work would give if nothing else took time."""
        return 1 / self.compute if self.compute else None

    @property
    def saved_nothing(self) -> bool:
        """Whether it ran and skipped no work in the blocks."""
        if self.saved is None:
            return bool(self.cells) and all(cell.reuse_rate == 0 for cell in self.cells)
        return self.saved < NOTHING

    @property
    def too_fast(self) -> bool:
        """Whether more time was saved than the work that was saved can take: noise of the clock."""
        if self.saved_nothing or self.denoise_speedup is None or self.compute_speedup is None:
            return False
        whole = self.family.startswith("fewer steps") or all(cell.reuse_rate is not None for cell in self.cells)
        return self.denoise_speedup > (MORE_THAN_POSSIBLE if whole else MORE_BY_PARTS) * self.compute_speedup

    @property
    def own_noise(self) -> bool:
        """Whether videos differ though nothing was reused in any of them: not by a cache, then."""
        return (
            bool(self.cells) and all(cell.reuse_rate == 0 for cell in self.cells) and self.identical < len(self.cells)
        )

    @property
    def timed_speedup(self) -> float | None:
        """Of the denoising; None where what was measured is no speedup: nothing was saved, or it is too fast."""
        return None if self.saved_nothing or self.too_fast else self.denoise_speedup

    @property
    def identical(self) -> int:
        """Videos without any difference."""
        return sum(cell.identical for cell in self.cells)

    @property
    def kept_bytes(self) -> int | None:
        """Held between steps, at most."""
        known = [cell.kept_bytes for cell in self.cells if cell.kept_bytes is not None]
        return max(known) if known else None

    @property
    def computed(self) -> float | None:
        """Steps of which at least one branch was computed, mean; for fewer steps, all of them."""
        asked = self.settings.get("steps") if self.family.startswith("fewer steps") else None
        return asked if is_number(asked) else _mean(cell.computed for cell in self.cells)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Why a measure is missing."""
        return tuple(dict.fromkeys(reason for cell in self.cells for reason in cell.unmeasured))

    def mean(self, measure: str) -> float | None:
        """Of a measure over the videos that differ, or None where none does or it was not measured."""
        return _mean(cell.quality.get(measure) for cell in self.cells if not cell.identical)

    def worst(self, measure: str) -> float | None:
        """The worst video by a measure."""
        known = [value for cell in self.cells if (value := cell.quality.get(measure)) is not None]
        if not known:
            return None
        if measure in BEST_AT_ONE:
            return max(known, key=lambda value: abs(value - 1))
        return min(known) if HIGHER_IS_BETTER.get(measure, True) else max(known)

    def interval(self, of: Callable[[Sequence[Cell]], float | None]) -> tuple[float, float] | None:
        """95 % confidence interval of a figure over the videos; None of fewer than two."""
        return interval(self.cells, of)

    def at(self, axis: Axis) -> float | None:
        """The speedup on an axis."""
        return self.compute_speedup if axis == "compute" else self.timed_speedup

    def to_json(self) -> dict[str, Any]:
        """One plain row."""
        measured = sorted({name for cell in self.cells for name in cell.quality})
        row: dict[str, Any] = {
            "family": self.family,
            "label": self.label,
            "settings": self.settings,
            "videos": len(self.cells),
            "identical": self.identical,
            "computed": self.computed,
            "compute": self.compute,
            "saved": self.saved,
            "compute_speedup": self.compute_speedup,
            "speedup": self.speedup,
            "denoise_speedup": self.denoise_speedup,
            "timed_speedup": self.timed_speedup,
            "saved_nothing": self.saved_nothing,
            "too_fast": self.too_fast,
            "kept_bytes": self.kept_bytes,
            "failed": self.failed,
            "notes": sorted({note for cell in self.cells for note in cell.notes}),
        }
        for name in measured:
            row |= {name: self.mean(name), f"worst_{name}": self.worst(name)}
        return row | {"psnr_interval": self.interval(mean_psnr)}


def results(cells: Iterable[Cell]) -> list[Result]:
    """The cells by method, in their order."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.label, []).append(cell)
    found = []
    for label, own in grouped.items():
        done = tuple(cell for cell in own if cell.failed is None)
        failed = None if done else own[0].failed
        found.append(Result(own[0].family, label, own[0].settings, done, failed))
    return found


def front(rows: Sequence[Result], measure: str = "psnr", axis: Axis = "time") -> list[Result]:
    """The Pareto front: no other row is at least as fast and better, or faster and as good; fastest first."""
    placed = [(speed, _height(row, measure), row) for row in rows if (speed := row.at(axis)) is not None]
    best: list[Result] = []
    highest = -np.inf
    for _, height, row in sorted(placed, key=lambda one: (-one[0], -one[1])):
        if height > highest:
            best.append(row)
            highest = height
    return best


def speedup_at(
    rows: Sequence[Result], decibels: float, axis: Axis = "compute"
) -> tuple[float | None, Literal["", ">="]]:
    """The speedup that a family reaches at a mean PSNR, along its own front, linear between neighbours.

    Returns:
        The speedup and ""; ">=" where even its fastest setting is better than that; None where none is as good.
    """
    return _speedup_at([(row.at(axis), _mean_psnr_or_ceiling(row.cells)) for row in rows if row.cells], decibels)


def speedup_interval(
    rows: Sequence[Result], decibels: float, axis: Axis = "compute", draws: int = DRAWS
) -> tuple[float, float] | None:
    """95 % confidence interval of `speedup_at`, over the videos that all rows share; None where it is not reached."""
    videos = sorted(set.intersection(*({(c.prompt, c.seed) for c in row.cells} for row in rows if row.cells)))
    if len(videos) < 2:
        return None
    tables = [_table(row, videos, axis) for row in rows if row.cells]
    random = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        drawn = random.integers(len(videos), size=len(videos))
        with np.errstate(over="ignore", divide="ignore"):  # of next to nothing: infinite, which reaches any speedup
            speedups = [above[drawn].sum() / below[drawn].sum() for above, below, _ in tables]
        points = [(speedup, float(psnr[drawn].mean())) for speedup, (_, _, psnr) in zip(speedups, tables, strict=True)]
        value = _speedup_at(points, decibels)[0]
        if value is not None:
            found.append(value)
    if len(found) < 0.95 * draws:
        return None
    return _middle(found)


def interval(cells: Sequence[Cell], of: Callable[[Sequence[Cell]], float | None]) -> tuple[float, float] | None:
    """95 % confidence interval of a figure over the videos; None of fewer than two."""
    if len(cells) < 2:
        return None
    random = np.random.default_rng(0)
    values = [of([cells[i] for i in random.integers(len(cells), size=len(cells))]) for _ in range(DRAWS)]
    known = [value for value in values if value is not None]
    if not known:
        return None
    return _middle(known)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """Where the middle 95 % of the values lie; between two infinite ones nothing can be said."""
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_psnr(cells: Sequence[Cell]) -> float | None:
    """Mean PSNR in dB of the videos that differ."""
    return _mean(cell.quality.get("psnr") for cell in cells if not cell.identical)


def _speedup_at(points: Iterable[tuple[float | None, float | None]], decibels: float) -> tuple[Any, Any]:
    known = sorted(((s, p) for s, p in points if s is not None and p is not None), key=lambda one: (-one[0], -one[1]))
    line: list[tuple[float, float]] = []
    for speed, psnr in known:
        if not line or psnr > line[-1][1]:
            line.append((speed, psnr))
    if not line or line[-1][1] < decibels:
        return None, ""
    if line[0][1] >= decibels:
        return line[0][0], ">="
    for (fast, low), (slow, high) in pairwise(line):
        if low < decibels <= high:
            return fast + (slow - fast) * (decibels - low) / (high - low), ""
    raise AssertionError("a rising line that passes the level crosses it")


def _table(row: Result, videos: Sequence[tuple[str, int]], axis: Axis) -> tuple[Any, Any, Any]:
    """Per video: what the uncached run took, what this one took, and its PSNR."""
    cells = {(cell.prompt, cell.seed): cell for cell in row.cells}
    own = [cells[video] for video in videos]
    psnr = np.array([_psnr_or_ceiling(cell) for cell in own])
    if axis == "compute":
        return np.ones(len(own)), np.array([cell.compute for cell in own], dtype=float), psnr
    above = np.array([cell.uncached_denoise_seconds for cell in own], dtype=float)
    return above, np.array([cell.denoise_seconds for cell in own], dtype=float), psnr


def _psnr_or_ceiling(cell: Cell) -> float:
    value = cell.quality.get("psnr")
    return CEILING if cell.identical or value is None else min(value, CEILING)


def _mean_psnr_or_ceiling(cells: Sequence[Cell]) -> float | None:
    return statistics.fmean(map(_psnr_or_ceiling, cells)) if cells else None


def _height(row: Result, measure: str) -> float:
    if measure == "psnr":
        value = _mean_psnr_or_ceiling(row.cells)
    else:
        value = _mean(cell.quality.get(measure) for cell in row.cells)
    if value is None:
        return -np.inf
    return value if HIGHER_IS_BETTER.get(measure, True) else -value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _ratio(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    known = [(above, below) for above, below in pairs if above is not None and below]
    return sum(above for above, _ in known) / sum(below for _, below in known) if known else None
