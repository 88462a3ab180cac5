"""Taps: what is kept of the tapped blocks' outputs, and how much they changed since they were last computed.

This is the fast way, for outputs compared by relative L1 with the last computed ones; `looks.py` has the general one.
Each tap keeps its own past: a block that was not called keeps what it had.

Two ways, one answer. A sample is so small that old and new are both at hand, and all distances come out of one
reduction at the end of the forward. All entries are so many, in models of real size, that only the old ones are, and
each block is compared and overwritten where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from bwcache.features import indicators, sampling
from bwcache.features.exchange import exchange
from bwcache.features.store import outside_inference_mode

FEW = 64 * 2**20
"""All entries of all tapped blocks, in bytes, that may be at hand for as long as a forward takes."""


Taps: TypeAlias = "SampledTaps | ExactTaps"


def taps(feature: Tensor, count: int, share: float | None, first: int = 0) -> Taps:
    """The taps of one branch: `count` blocks, a share of their entries (None: the default budget; 1: all).

    Args:
        feature: what one of them returned; the others are taken to be like it.
        count, share: how many blocks, and how much of each.
        first: how many taps other branches have, so that these look elsewhere.
    """
    few = count * feature.nbytes <= FEW
    if share == 1 and not few:
        return ExactTaps(count)
    late = few and feature.device.type == "cpu"
    return LateTaps(count, share, first) if late else SampledTaps(count, share, first)


def planned_bytes(feature: Tensor, count: int, share: float | None) -> int:
    """Bytes that the taps of one branch will hold between steps, if each of their blocks returns what is like this."""
    if share == 1:
        return count * feature.nbytes
    walk = sampling.Walk.through(feature, count, share)
    return count * walk.entries * walk.dtype.itemsize


@dataclass(slots=True)
class Sheet:
    """The samples `[T, S]` that one walk took, and the tap that each row is of."""

    walk: sampling.Walk
    taps: list[int]
    samples: Tensor

    def follows(self, other: Sheet) -> bool:
        """Whether the other one can be compared with it: the same taps, taken by the same walk."""
        return self.walk is other.walk and self.taps == other.taps


class SampledTaps:
    """A share of the entries of T blocks: T samples between steps, those of one step more during one.

    Features of one kind, which mostly all are of, have one sheet. It is laid out at a forward's first tap, and nothing
    is put together afterwards. Samples of several kinds are taken one by one and gathered at the end.
    """

    def __init__(self, count: int, share: float | None, first: int = 0) -> None:
        self._count, self._share, self._first = count, share, first
        self._walks: list[sampling.Walk] = []
        self._old: list[Sheet] = []
        self._new: Sheet | None = None
        self._rows: dict[int, Tensor] = {}
        self._taken: list[int] = []
        self._apart: dict[int, tuple[sampling.Walk, Tensor]] = {}

    def record(self, tap: int, feature: Tensor) -> None:
        """Takes the output `[B, …, C]` of the `tap`-th tapped block, in the order of the forward."""
        row = self._rows.get(tap)
        if row is None or feature.shape != self._shape or feature.dtype is not self._dtype:
            self._record_apart(tap, feature)
            return
        # As Walk.sample has it, written out: between two blocks, each call finds the processor's caches empty.
        walked = feature if self._axes is None else feature.permute(self._axes)
        if not walked.is_contiguous():
            walked = walked.contiguous()
        start = walked.storage_offset() + (self._first + tap) % self._n
        row.copy_(walked.as_strided(self._size, (self._n,), start))
        self._taken.append(tap)

    def measure(self) -> Tensor | None:
        """`[2, T]` numerators and denominators against the last computed step, or None where there is none yet.

        Blocks that were not called in either step have zeros.
        """
        new = self._new
        whole = new is not None and len(self._taken) == len(self._rows) and not self._apart
        sheets = [new] if new is not None and whole else self._gather()
        self._new, self._rows, self._taken, self._apart = None, {}, [], {}
        return self._compared(sheets)

    def _compared(self, sheets: list[Sheet]) -> Tensor | None:
        """These samples against the last ones, in whose place they are kept."""
        old, self._old = self._old, sheets
        if not old or not sheets:
            return None
        if len(old) == len(sheets) and all(map(Sheet.follows, sheets, old)):
            pairs = list(zip(old, sheets, strict=True))
        else:
            pairs, self._old = self._matched(old, sheets)
        if not pairs:
            return None
        distances, taps = [], []
        for before, new in pairs:
            distances.append(indicators.relative_l1(new.samples, before.samples))
            taps += before.taps
        return spread(distances, taps, self._count)

    def _matched(self, old: list[Sheet], new: list[Sheet]) -> tuple[list[tuple[Sheet, Sheet]], list[Sheet]]:
        """The taps that both have, side by side; and the newest sample of each tap, whichever has it."""
        before, now = _by_tap(old), _by_tap(new)
        both = [tap for tap, (walk, _) in now.items() if tap in before and before[tap][0] is walk]
        pairs = zip(_sheets({tap: before[tap] for tap in both}), _sheets({tap: now[tap] for tap in both}), strict=True)
        return list(pairs), _sheets(before | now)

    def _lay_out(self, last: Sheet) -> None:
        """An empty sheet like the last one, and what `record` asks for at each tap."""
        walk, samples = last.walk, torch.empty_like(last.samples)
        self._new = Sheet(walk, last.taps, samples)
        self._rows = dict(zip(last.taps, samples.unbind(), strict=True))
        self._shape, self._dtype, self._axes = walk.shape, walk.of, walk.axes
        self._n, self._size = walk.n, (walk.entries,)

    def _record_apart(self, tap: int, feature: Tensor) -> None:
        """Where no sheet is laid out yet, or none can be, or this feature is of another kind."""
        if not self._rows and not self._apart and len(self._old) == 1 and not torch.is_grad_enabled():
            self._lay_out(self._old[0])
            self.record(tap, feature)
        else:
            walk = self._walk(feature)
            self._apart[tap] = (walk, walk.sample(feature, self._first + tap))

    def _gather(self) -> list[Sheet]:
        """All that was taken, on one sheet for each kind."""
        taken = dict(self._apart)
        if self._new is not None:
            taken |= {tap: (self._new.walk, self._rows[tap]) for tap in self._taken}
        return _sheets(taken)

    def _walk(self, feature: Tensor) -> sampling.Walk:
        for walk in self._walks:
            if walk.suits(feature):
                return walk
        self._walks.append(sampling.Walk.through(feature, self._count, self._share))
        return self._walks[-1]

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum([sheet.samples.nbytes for sheet in self._old])


class LateTaps(SampledTaps):
    """The same, all samples taken at the end of the forward: for features that are few, on a CPU.

    There a call that takes four microseconds takes thirty between two blocks, which leave the processor's caches full
    of theirs. One after the other such calls are fast. So the features themselves are held for as long as the forward
    takes, unless some block writes into what an earlier one returned: whether any does, the first forward shows.
    """

    def __init__(self, count: int, share: float | None, first: int = 0) -> None:
        super().__init__(count, share, first)
        self._held: list[tuple[int, Tensor, int]] = []
        self._late: bool | None = None  # whether that may be done: not known yet

    def record(self, tap: int, feature: Tensor) -> None:
        """As its base; from the second forward on it only takes note of the feature."""
        if self._late and not feature.is_inference():
            self._held.append((tap, feature, feature._version))
            return
        if feature.is_inference():
            self._late = False  # what is written into such a tensor is not counted
        super().record(tap, feature)
        if self._late is None:
            self._held.append((tap, feature, feature._version))

    def measure(self) -> Tensor | None:
        """As its base; None also where a block wrote into what was to be sampled and had not done so before."""
        held, self._held, intact = self._held, [], True
        for _, feature, version in held:
            intact = intact and feature._version == version
        if self._late is None:
            self._late = intact and self._sampled_alike(held)
        elif self._late:
            self._late = intact
            return self._compared(self._sheets(held) if intact else [])
        return super().measure()

    def _sampled_alike(self, held: list[tuple[int, Tensor, int]]) -> bool:
        """Whether the features are still what they were: not every way to write into a tensor leaves a trace in it."""
        again = {tap: self._walk(feature).sample(feature, self._first + tap) for tap, feature, _ in held}
        return all(torch.equal(again[tap], sample) for tap, (_, sample) in self._apart.items())

    def _sheets(self, held: list[tuple[int, Tensor, int]]) -> list[Sheet]:
        """All samples, on one sheet for each kind of feature."""
        kinds: dict[sampling.Walk, dict[int, Tensor]] = {}
        walk = self._walks[-1] if held and held[0][1].device == self._walks[-1].device else None
        for tap, feature, _ in held:
            if walk is None or feature.shape != walk.shape or feature.dtype is not walk.of:
                walk = self._walk(feature)
            kinds.setdefault(walk, {})[tap] = feature
        sheets = []
        for walk, some in kinds.items():
            sheets.append(Sheet(walk, list(some), walk.samples(some, self._first)))
        return sheets


class ExactTaps:
    """All entries of T blocks: T features between steps, none more during one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: dict[int, Tensor] = {}
        self._compared: list[int] = []
        self._sums: list[Tensor] = []

    def record(self, tap: int, feature: Tensor) -> None:
        """Compares the output `[B, …, C]` of the `tap`-th tapped block with the kept one and overwrites that."""
        new, kept = feature.detach(), self._kept.get(tap)
        if kept is not None and comparable(kept, new):
            self._compared.append(tap)
            self._sums += exchange(kept, new)
        else:
            with outside_inference_mode():
                self._kept[tap] = new.clone()

    def measure(self) -> Tensor | None:
        """As `SampledTaps.measure`."""
        compared, sums = self._compared, self._sums
        self._compared, self._sums = [], []
        if not compared:
            return None
        together = torch.stack([part.to(sums[0].device) for part in (*sums[::2], *sums[1::2])])
        return spread([together.view(2, -1)], compared, self._count)

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(entries.nbytes for entries in self._kept.values())


def _by_tap(sheets: list[Sheet]) -> dict[int, tuple[sampling.Walk, Tensor]]:
    return {tap: (each.walk, row) for each in sheets for tap, row in zip(each.taps, each.samples, strict=True)}


def _sheets(samples: dict[int, tuple[sampling.Walk, Tensor]]) -> list[Sheet]:
    """Samples by tap on one sheet for each kind of feature."""
    sheets: dict[int, Sheet] = {}
    for walk in {id(walk): walk for walk, _ in samples.values()}.values():
        taps = sorted(tap for tap, (own, _) in samples.items() if own is walk)
        sheets[taps[0]] = Sheet(walk, taps, torch.stack([samples[tap][1] for tap in taps]))
    return [sheets[first] for first in sorted(sheets)]


def spread(measured: list[Tensor], places: list[int], count: int) -> Tensor:
    """What some of the taps measured, `[2, t]` each, as `[2, T]` of all: zeros for those that did not."""
    some = measured[0] if len(measured) == 1 else torch.cat([part.to(measured[0].device) for part in measured], dim=1)
    if len(measured) == 1 and len(places) == count:
        return some
    return some.new_zeros(2, count).index_copy_(1, torch.tensor(places, device=some.device), some)


def comparable(old: Tensor, new: Tensor) -> bool:
    """Whether two features can be subtracted: same shape, dtype and device."""
    return old.shape == new.shape and old.dtype == new.dtype and old.device == new.device
