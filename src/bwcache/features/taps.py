"""Samples of the tapped blocks' outputs, and how much they changed since the last computed step.

Two ways, one answer. A sample is so small that old and new are both at hand, and all distances come out of one
reduction at the end of the forward. All entries are so many that only the old ones are, and each block is compared and
overwritten where it stands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bwcache.features import indicators, sampling


def taps(count: int, share: float | None) -> SampledTaps | ExactTaps:
    """The taps of one branch: `count` blocks, a share of their entries (None: the default budget; 1: all)."""
    return ExactTaps(count) if share == 1 else SampledTaps(count, share)


class SampledTaps:
    """A share of the entries of T blocks: one buffer `[T, B, S]` between steps, a second during one."""

    def __init__(self, count: int, share: float | None) -> None:
        self._count, self._share = count, share
        self._old: Tensor | None = None
        self._new: Tensor | None = None
        self._places: tuple[int, Tensor] | None = None
        self._seen = 0

    def record(self, tap: int, feature: Tensor) -> None:
        """Takes the output `[B, …, C]` of the `tap`-th tapped block, in the order of the forward."""
        if tap == 0:
            kept = sampling.entries_to_keep(feature[0].numel(), self._count, self._share)
            self._new = feature.new_empty(self._count, feature.shape[0], kept)
            self._seen = 0
        if self._new is None:
            return
        entries, kept = feature[0].numel(), self._new.shape[-1]
        if tap != self._seen or entries < kept or len(feature) != self._new.shape[1]:
            self._new = None
            return
        if self._places is None or self._places[0] != entries:
            self._places = entries, sampling.places(entries, kept, feature.device)
        moved = sampling.offset(tap, entries, kept)
        self._new[tap].copy_(sampling.sample(feature, self._places[1], moved))
        self._seen += 1

    def measure(self) -> Tensor | None:
        """`[2, T]` numerators and denominators against the last computed step, or None where there is none yet."""
        old, new = self._old, self._new if self._seen == self._count else None
        self._old, self._new, self._seen, self._places = new, None, 0, None
        if old is None or new is None or not comparable(old, new):
            return None
        return indicators.relative_l1(new, old)

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return 0 if self._old is None else self._old.nbytes


class ExactTaps:
    """All entries of T blocks: T features between steps, none more during one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[Tensor] = []
        self._distances: list[Tensor] = []
        self._seen = 0

    def record(self, tap: int, feature: Tensor) -> None:
        """Compares the output `[B, …, C]` of the `tap`-th tapped block with the kept one and overwrites that."""
        if tap == 0:
            self._seen = 0
            self._distances.clear()
        if tap != self._seen:
            return
        entries = feature.detach().flatten(1)
        if tap < len(self._kept) and comparable(self._kept[tap], entries):
            self._distances.append(indicators.relative_l1(entries[None], self._kept[tap][None]))
            self._kept[tap].copy_(entries)
        else:
            self._kept[tap:] = [entries.clone()]
        self._seen += 1

    def measure(self) -> Tensor | None:
        """As `SampledTaps.measure`."""
        complete = self._seen == self._count
        measured = torch.cat(self._distances, dim=1) if complete and len(self._distances) == self._count else None
        if not complete:
            self._kept.clear()
        self._distances.clear()
        self._seen = 0
        return measured

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(kept.nbytes for kept in self._kept)


def comparable(old: Tensor, new: Tensor) -> bool:
    """Whether two features can be subtracted: same shape, dtype and device."""
    return old.shape == new.shape and old.dtype == new.dtype and old.device == new.device
