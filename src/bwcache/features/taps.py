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
    """A share of the entries of T blocks: T samples between steps, those of one step more during one."""

    def __init__(self, count: int, share: float | None, first: int = 0) -> None:
        self._count, self._share, self._first = count, share, first
        self._old: list[Tensor] = []
        self._new: list[Tensor] = []
        self._ways: dict[tuple[object, ...], tuple[int, torch.dtype]] = {}

    def record(self, tap: int, feature: Tensor) -> None:
        """Takes the output `[B, …, C]` of the `tap`-th tapped block, in the order of the forward."""
        if tap == 0:
            self._new = []
        if tap != len(self._new):
            return
        kind = (feature.shape, feature.dtype)
        if kind not in self._ways:
            n = sampling.stride(feature, self._count, self._share)
            self._ways[kind] = n, sampling.precision(feature, self._share)
        n, dtype = self._ways[kind]
        self._new.append(sampling.sample(feature, n, self._first + tap, dtype))

    def measure(self) -> Tensor | None:
        """`[2, T]` numerators and denominators against the last computed step, or None where there is none yet."""
        old, new = self._old, self._new
        self._old, self._new = new if len(new) == self._count else [], []
        if not new or len(old) != len(new) or not all(map(comparable, old, new)):
            return None
        if all(comparable(new[0], sample) for sample in new):
            return indicators.relative_l1(torch.stack(new), torch.stack(old))
        each = [indicators.relative_l1(b[None], a[None]) for a, b in zip(old, new, strict=True)]
        return torch.cat([measured.to(each[0].device) for measured in each], dim=1)

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(sample.nbytes for sample in self._old)


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
