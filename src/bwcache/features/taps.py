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
        self._rows: list[Tensor] = []
        self._strides: dict[tuple[object, ...], int] = {}

    def record(self, tap: int, feature: Tensor) -> None:
        """Takes the output `[B, …, C]` of the `tap`-th tapped block, in the order of the forward."""
        if tap == 0:
            self._rows = []
        if tap != len(self._rows):
            return
        kind = (feature.shape, feature.dtype)
        n = self._strides.get(kind)
        if n is None:
            n = self._strides[kind] = sampling.stride(feature, self._count, self._share)
        self._rows.append(sampling.sample(feature, n, self._first + tap))

    def measure(self) -> Tensor | None:
        """`[2, T]` numerators and denominators against the last computed step, or None where there is none yet."""
        old, rows = self._old, _stacked(self._rows) if len(self._rows) == self._count else []
        self._old, self._rows = [row.to(sampling.precision(row, self._share)) for row in rows], []
        new = self._old
        if not new or len(old) != len(new) or not all(map(comparable, old, new)):
            return None
        measured = [indicators.relative_l1(b, a) for a, b in zip(old, new, strict=True)]
        return measured[0] if len(measured) == 1 else torch.cat([part.to(old[0].device) for part in measured], dim=1)

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(rows.nbytes for rows in self._old)


def _stacked(rows: list[Tensor]) -> list[Tensor]:
    """One `[T, S]` where all samples are alike, as they mostly are; else each as `[1, S]`."""
    if all(comparable(rows[0], row) for row in rows):
        return [torch.stack(rows)]
    return [row[None] for row in rows]


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
