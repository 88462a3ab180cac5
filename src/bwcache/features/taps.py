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
    """A share of the entries of T blocks: one tensor `[T, B, S]` between steps, the samples of one more during one."""

    def __init__(self, count: int, share: float | None) -> None:
        self._count, self._share = count, share
        self._old: Tensor | None = None
        self._samples: list[Tensor] = []
        self._kept = 0
        self._places: tuple[int, Tensor] | None = None

    def record(self, tap: int, feature: Tensor) -> None:
        """Takes the output `[B, …, C]` of the `tap`-th tapped block, in the order of the forward."""
        entries = feature.numel() // len(feature)
        if tap == 0:
            self._samples = []
            self._kept = sampling.entries_to_keep(entries, self._count, self._share)
        if tap != len(self._samples) or entries < self._kept:
            return
        if self._places is None or self._places[0] != entries:
            self._places = entries, sampling.places(entries, self._kept, feature.device)
        moved = sampling.offset(tap, entries, self._kept)
        self._samples.append(sampling.sample(feature, self._places[1], moved))

    def measure(self) -> Tensor | None:
        """`[2, T]` numerators and denominators against the last computed step, or None where there is none yet."""
        old, samples = self._old, self._samples
        complete = len(samples) == self._count and all(comparable(samples[0], sample) for sample in samples)
        self._old = new = torch.stack(samples) if complete else None
        self._samples, self._places = [], None
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
