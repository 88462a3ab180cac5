"""What curves of the indicator say: their shape by a stated rule, their spread, and how few blocks or entries suffice.

Pure functions on arrays. Letters: V videos, S steps, N blocks. A change is that of a block's output from one step to
the next (Eq. 5 of the paper, dimensionless); not-a-number where nothing was measured, as in a first step. An indicator
is the mean of the changes over the blocks (Eq. 7).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
ARM = 1.5
"""So many times the middle an end must be to count as an arm."""
FEWEST_CHANGES = 9
"""Shorter curves have no shape."""
ENOUGH = 0.95
"""Share of the decisions that must be the same, at each threshold, for fewer blocks or entries to suffice."""
CLOSE = 0.10
"""So near to the whole indicator must theirs be in nine of ten steps."""


@dataclass(frozen=True)
class Shape:
    """The shape of a curve, by this rule:

    The middle is the median of the middle third of the changes, an end the median of the first or last tenth (at least
    two changes). An end of at least 1.5 times the middle is an arm. Two arms make a U, one an inverted L; otherwise, or
    with fewer than nine changes, it is neither.

    Attributes:
        kind: the shape.
        arm: where the only arm of an inverted L is: "start" (much change, then little) or "end".
        start, end: the ends as multiples of the middle; None where it cannot be told.
    """

    kind: Literal["U", "inverted L", "neither"]
    arm: Literal["start", "end"] | None = None
    start: float | None = None
    end: float | None = None

    def __str__(self) -> str:
        if self.start is None or self.end is None:
            return f"neither: fewer than {FEWEST_CHANGES} changes, or none in the middle"
        name = self.kind if self.arm is None else f"{self.kind} (its arm at the {self.arm})"
        return (
            f"{name}: the first tenth of the steps changes {self.start:.1f} times as much as the middle third, "
            f"the last tenth {self.end:.1f} times; an arm is {ARM:g} times or more"
        )


def shape(curve: Sequence[float] | Array) -> Shape:
    """The shape of a curve over the steps; steps without a number are left out. The rule is in `Shape`."""
    values = np.asarray(curve, dtype=float)
    values = values[np.isfinite(values)]
    count = len(values)
    if count < FEWEST_CHANGES:
        return Shape("neither")
    tenth = max(2, round(count / 10))
    middle = float(np.median(values[count // 3 : count - count // 3]))
    if middle <= 0:
        return Shape("neither")
    start, end = (float(np.median(part)) / middle for part in (values[:tenth], values[-tenth:]))
    if start >= ARM and end >= ARM:
        return Shape("U", None, start, end)
    if start >= ARM or end >= ARM:
        return Shape("inverted L", "start" if start >= ARM else "end", start, end)
    return Shape("neither", None, start, end)


def indicator(changes: Array) -> Array:
    """`[…, N]` -> `[…]`: the mean over the blocks that were measured."""
    return _nan_quiet(np.nanmean, changes, axis=-1)


def spread(curves: Array) -> tuple[Array, Array, Array]:
    """`[V, S]` -> three of `[S]`: the median over the videos, the 10 % and the 90 % quantile."""
    low, median, high = _nan_quiet(np.nanquantile, curves, [0.1, 0.5, 0.9], axis=0)
    return median, low, high


def _nan_quiet(of: Callable[..., Array], *args: object, **kwargs: object) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of steps where nothing is measured: not-a-number is right
        return of(*args, **kwargs)


@dataclass(frozen=True)
class Fewer:
    """The indicator measured on less, judged by the whole one on steps of uncached videos.

    Attributes:
        what: which blocks or entries.
        blocks: their indices, or None for all.
        memory: what is kept between steps, as a share of what all blocks and entries take; None where unknown.
        agreement: for each of `THRESHOLDS`, the share of the steps in which both are on the same side of it.
        ratio: this indicator over the whole one, median.
        error: |ratio - 1|, the 90 % quantile.
        correlation: rank correlation of the two over all steps of all videos, -1..1; None where one is constant.
        videos: how many it was judged on.
    """

    what: str
    blocks: tuple[int, ...] | None
    memory: float | None
    agreement: tuple[float, ...]
    ratio: float
    error: float
    correlation: float | None
    videos: int

    @property
    def suffices(self) -> bool:
        """Whether it agrees in 95 % of the steps at each threshold, and nine of ten steps are within 10 % of the whole.

        The second is asked for because a threshold that nearly all steps are below is easy to agree on.
        """
        return min(self.agreement) >= ENOUGH and self.error <= CLOSE


def judged(
    what: str, fewer: Array, whole: Array, memory: float | None, blocks: tuple[int, ...] | None = None
) -> Fewer | None:
    """Two indicators `[V, S]` beside each other; None where no step has both."""
    both = np.isfinite(fewer) & np.isfinite(whole) & (whole > 0)
    if not both.any():
        return None
    some, all_ = fewer[both], whole[both]
    ratios = some / all_
    return Fewer(
        what=what,
        blocks=blocks,
        memory=memory,
        agreement=tuple(float(np.mean((some < delta) == (all_ < delta))) for delta in THRESHOLDS),
        ratio=float(np.median(ratios)),
        error=float(np.quantile(np.abs(ratios - 1), 0.9)),
        correlation=rank_correlation(some, all_),
        videos=len(whole),
    )


def below(whole: Array) -> tuple[float, ...]:
    """For each of `THRESHOLDS`, the share of the steps `[V, S]` whose indicator is below it."""
    return tuple(share_below(whole, delta) for delta in THRESHOLDS)


def share_below(whole: Array, delta: float) -> float:
    """The share of the steps `[V, S]` whose indicator is below a threshold, 0..1."""
    known = whole[np.isfinite(whole)]
    return float(np.mean(known < delta)) if len(known) else 0.0


def fewer_blocks(changes: Array) -> Iterator[Fewer]:
    """`[V, S, N]`: subsets of the blocks, by place and by what they say, judged by all blocks.

    The chosen ones ("most correlated", "closest") are found on one half of the videos and judged on the other, and the
    other way round; the blocks that are named are those that all videos together choose. Of one video they are judged
    on what chose them.
    """
    whole, count = indicator(changes), changes.shape[-1]
    seen = {tuple(range(count))}
    for what, blocks in _by_place(count):
        if blocks not in seen:
            seen.add(blocks)
            found = judged(what, indicator(changes[..., blocks]), whole, len(blocks) / count, blocks)
            if found:
                yield found
    for size in _sizes(count):
        for what, choose in (("most correlated", most_correlated), ("closest", closest)):
            fewer = _chosen_elsewhere(changes, size, choose)
            found = judged(f"{what} {_counted(size)}", fewer, whole, size / count, choose(changes, size))
            if found:
                yield found


def most_correlated(changes: Array, size: int) -> tuple[int, ...]:
    """The blocks whose own change has the highest rank correlation with the indicator, in order of the forward."""
    whole = indicator(changes)
    scores = []
    for block in range(changes.shape[-1]):
        own = changes[..., block]
        both = np.isfinite(own) & np.isfinite(whole)
        value = rank_correlation(own[both], whole[both])
        scores.append(-2.0 if value is None else value)
    return tuple(sorted(int(block) for block in np.argsort(-np.array(scores), kind="stable")[:size]))


def closest(changes: Array, size: int) -> tuple[int, ...]:
    """Blocks added one by one, each time the one that brings their mean closest to the indicator in relative terms."""
    whole, chosen = indicator(changes), list[int]()
    while len(chosen) < size:
        left = [block for block in range(changes.shape[-1]) if block not in chosen]
        chosen.append(min(left, key=lambda block: _distance(indicator(changes[..., [*chosen, block]]), whole)))
    return tuple(sorted(chosen))


def rank_correlation(a: Array, b: Array) -> float | None:
    """Spearman's; None where one is constant or there are fewer than three."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Array) -> Array:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[inverse]


def _distance(fewer: Array, whole: Array) -> float:
    both = np.isfinite(fewer) & np.isfinite(whole) & (whole > 0)
    return float(np.mean(np.abs(fewer[both] / whole[both] - 1))) if both.any() else np.inf


def _chosen_elsewhere(changes: Array, size: int, choose: Callable[[Array, int], tuple[int, ...]]) -> Array:
    """Each half of the videos, measured at the blocks that the other half chooses: `[V, S]`."""
    videos = len(changes)
    if videos < 2:
        return indicator(changes[..., choose(changes, size)])
    fewer = np.empty(changes.shape[:2])
    for parity in (0, 1):
        own, other = np.arange(parity, videos, 2), np.arange(1 - parity, videos, 2)
        fewer[own] = indicator(changes[own][..., choose(changes[other], size)])
    return fewer


def _by_place(count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for n, word in ((2, "every 2nd block"), (4, "every 4th block")):
        yield word, tuple(range(n // 2, count, n))
    for size in (count // 2, *_sizes(count)[::-1]):
        yield f"first {_counted(size)}", tuple(range(size))
        yield f"last {_counted(size)}", tuple(range(count - size, count))


def _counted(size: int) -> str:
    return "block" if size == 1 else f"{size} blocks"


def _sizes(count: int) -> list[int]:
    """How many blocks are chosen: 1, 2, a quarter of all."""
    return [size for size in sorted({1, 2, count // 4}) if 0 < size < count]
