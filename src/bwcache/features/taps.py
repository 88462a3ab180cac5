"""Samples of the tapped blocks' outputs, and how much they changed since the last computed step.

Two ways, one answer. A sample is so small that old and new are both at hand, and all distances come out of one
reduction at the end of the forward. All entries are so many that only the old ones are, and each block is compared and
overwritten where it stands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bwcache.features import indicators, sampling


def taps(count: int, share: float | None, first: int = 0) -> SampledTaps | ExactTaps:
    """The taps of one branch: `count` blocks, a share of their entries (None: the default budget; 1: all).

    Args:
        first: how many taps other branches have, so that these look elsewhere.
    """
    return ExactTaps(count) if share == 1 else SampledTaps(count, share, first)


class SampledTaps:
    """A share of the entries of T blocks: T samples between steps, those of one step more during one.

    Where all samples are alike, as they mostly are, they are the rows of one sheet `[T, S]` that is there before the
    forward, and nothing is put together afterwards.
    """

    def __init__(self, count: int, share: float | None, first: int = 0) -> None:
        self._count, self._share, self._first = count, share, first
        self._old: list[Tensor] = []
        self._places: list[int] = []
        self._taken: dict[int, Tensor] = {}
        self._sheet: list[Tensor] = []
        self._rows: dict[int, Tensor] = {}
        self._walks: dict[tuple[object, ...], sampling.Walk] = {}

    def record(self, tap: int, feature: Tensor) -> None:
        """Takes the output `[B, …, C]` of the `tap`-th tapped block, in the order of the forward."""
        kind = (feature.shape, feature.dtype)
        walk = self._walks.get(kind)
        if walk is None:
            walk = self._walks[kind] = sampling.Walk.of(feature, self._count, self._share)
        if not self._taken:
            self._lay_out()
        row = self._rows.get(tap)
        self._taken[tap] = taken = walk.sample(feature, self._first + tap, row)
        if taken is row:
            del self._rows[tap]

    def measure(self) -> Tensor | None:
        """`[2, T]` numerators and denominators against the last computed step, or None where there is none yet.

        Blocks that were not called in either step have zeros.
        """
        old, places, taken = self._old, self._places, self._taken
        filled = bool(self._sheet) and not self._rows and len(taken) == len(places)
        self._old = new = self._sheet if filled else _stacked(list(taken.values()))
        self._places, self._taken = list(taken), {}
        self._sheet, self._rows = [], {}
        if not new or places != self._places or len(old) != len(new) or not all(map(comparable, old, new)):
            return None
        return spread([indicators.relative_l1(b, a) for a, b in zip(old, new, strict=True)], places, self._count)

    def _lay_out(self) -> None:
        """An empty sheet like the last one, for the same blocks."""
        if len(self._old) == 1:
            self._sheet = [torch.empty_like(self._old[0])]
            self._rows = dict(zip(self._places, self._sheet[0].unbind(), strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(rows.nbytes for rows in self._old)


def _stacked(rows: list[Tensor]) -> list[Tensor]:
    """One `[T, S]` where all samples are alike; else each as `[1, S]`."""
    if rows and all(comparable(rows[0], row) for row in rows):
        return [torch.stack(rows)]
    return [row[None] for row in rows]


class ExactTaps:
    """All entries of T blocks: T features between steps, none more during one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: dict[int, Tensor] = {}
        self._seen: list[int] = []
        self._distances: list[Tensor] = []

    def record(self, tap: int, feature: Tensor) -> None:
        """Compares the output `[B, …, C]` of the `tap`-th tapped block with the kept one and overwrites that."""
        self._seen.append(tap)
        entries, kept = feature.detach().flatten(), self._kept.get(tap)
        if kept is not None and comparable(kept, entries):
            self._distances.append(indicators.relative_l1(entries[None], kept[None]))
            kept.copy_(entries)
        else:
            self._kept[tap] = entries.clone()

    def measure(self) -> Tensor | None:
        """As `SampledTaps.measure`."""
        seen, distances = self._seen, self._distances
        complete = bool(seen) and seen == list(self._kept) and len(distances) == len(seen)
        self._kept = {tap: self._kept[tap] for tap in seen}
        self._seen, self._distances = [], []
        return spread(distances, seen, self._count) if complete else None

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(kept.nbytes for kept in self._kept.values())


def spread(measured: list[Tensor], places: list[int], count: int) -> Tensor:
    """What some of the taps measured, `[2, t]` each, as `[2, T]` of all: zeros for those that did not."""
    some = measured[0] if len(measured) == 1 else torch.cat([part.to(measured[0].device) for part in measured], dim=1)
    if len(places) == count:
        return some
    return some.new_zeros(2, count).index_copy_(1, torch.tensor(places, device=some.device), some)


def comparable(old: Tensor, new: Tensor) -> bool:
    """Whether two features can be subtracted: same shape, dtype and device."""
    return old.shape == new.shape and old.dtype == new.dtype and old.device == new.device
