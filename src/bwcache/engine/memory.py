"""What a run will hold between steps: counted before its first block runs, and never more than is allowed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Trace
from bwcache.core.amounts import in_bytes, size
from bwcache.engine.plan import Plan
from bwcache.engine.samples import Rows
from bwcache.errors import MuchKept, OverBudget, SettingError, complaint
from bwcache.features import foretelling, taps
from bwcache.policies import Policy

MUCH = 2**30
"""Bytes on the device from which on taps that weigh more than the features are worth a warning."""


@dataclass(frozen=True)
class Memory:
    """Where features wait between steps, and how many bytes may be held on the device meanwhile (None: any)."""

    offload: bool = False
    limit: int | None = None

    @classmethod
    def of(cls, memory: str, max_memory: int | str | None) -> Memory:
        """From what `attach` takes.

        Raises:
            SettingError: it is neither "device" nor "offload", or no amount.
        """
        if memory not in ("device", "offload"):
            raise SettingError(complaint(f"memory {memory!r}", '"device" or "offload"', "choose one of them"))
        return cls(memory == "offload", None if max_memory is None else in_bytes(max_memory))


DEFAULT = Memory()


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that will be held between steps: of features, and of what taps and foretellings sample."""

    features: int = 0
    taps: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(self.features + other.features, self.taps + other.taps)

    def __mul__(self, times: int) -> Need:
        return Need(self.features * times, self.taps * times)


def need(plan: Plan, policy: Policy[Any], entered: dict[str, Any], rows: Rows) -> Need:
    """What one lane will need, from the streams that enter the first block: most stacks return what is like these."""
    first = plan.stack.blocks[0].measured
    streams = {name: _of_one(value, rows) for name, value in entered.items() if isinstance(value, Tensor)}
    sites = dict.fromkeys(place.site for place in plan.places if place.site is not None)
    tapped = [place.block.streams[place.tapped].name for place in plan.places if place.tap is not None]
    predictor = policy.feature_predictor

    def like(name: str) -> Tensor:
        """A stream that only later blocks know is taken to be like the measured one."""
        found = streams.get(name, streams.get(first))
        return torch.empty(0, device="meta") if found is None else found

    needed = Need(taps=taps.planned_bytes(like(tapped[0]), len(tapped), policy.tap_share) if tapped else 0)
    if predictor is None or not policy.may_reuse:
        return needed
    for site in sites:
        features = sum(like(name).nbytes for name in site.streams)
        needed += Need(features * predictor.history)
        if policy.needs_errors:
            foretold = plan.stack.spec.measured if plan.stack.spec.measured in site.streams else site.streams[0]
            needed += Need(taps=foretelling.planned_bytes(like(foretold), predictor))
    return needed


def _of_one(stream: Tensor, rows: Rows) -> Tensor:
    """The outline of one sample's rows of a stream, without its values."""
    sizes = [length // rows.samples if axis == rows.axis else length for axis, length in enumerate(stream.shape)]
    return torch.empty(sizes, dtype=stream.dtype, device="meta")


class Account:
    """What each lane of a run needs, against what may be held on the device between steps.

    Args:
        memory: the settings.
        trace: where the plan is written down.
        policy: for advice.
    """

    def __init__(self, memory: Memory, trace: Trace, policy: Policy[Any]) -> None:
        self._memory, self._trace, self._policy = memory, trace, policy
        self._needs: dict[tuple[str, str], Need] = {}
        self._refused: dict[str, str] = {}

    def knows(self, lane: str, denoiser: str) -> bool:
        """Whether a lane is counted."""
        return (lane, denoiser) in self._needs

    def refusal(self, lane: str) -> str | None:
        """Why nothing is kept of a lane, or None."""
        return self._refused.get(lane)

    def refuse(self, lanes: Sequence[str], total: Need, run: bool) -> None:
        """Nothing is kept of these lanes from now on: with them, more would be held than is allowed.

        Args:
            total: what would be held.
            run: whether to refuse the whole run instead.

        Raises:
            OverBudget: the run is refused.
        """
        if run:
            raise self._over_budget(total)
        over = f"over max_memory ({size(self._on_device(total))}, {size(self._memory.limit or 0)} allowed)"
        self._refused |= dict.fromkeys(lanes, over)

    @property
    def limited(self) -> bool:
        """Whether there is a limit to what may be held."""
        return self._memory.limit is not None

    def fits(self, held: Need) -> bool:
        """Whether so much may be held."""
        return self._memory.limit is None or self._on_device(held) <= self._memory.limit

    def expect(self, lanes: Sequence[str], denoiser: str, each: Need, branches: int, refuses: bool) -> None:
        """Counts lanes before the first block of their first forward.

        Args:
            lanes, denoiser, each: what is new, and what each lane needs.
            branches: how many guidance branches are to come, these lanes' own among them.
            refuses: whether the run may still be refused; later on, lanes without room are computed and not kept.

        Raises:
            OverBudget: the run would hold more than is allowed.
        """
        self._needs |= {(lane, denoiser): each for lane in lanes}
        total = max(self._total(), each * (len(lanes) * branches), key=self._weight)
        if not self.fits(total):
            self._needs |= dict.fromkeys(((lane, denoiser) for lane in lanes), Need())
            self.refuse(lanes, total, refuses)
            return
        self._trace.planned_bytes = max(self._trace.planned_bytes, self._on_device(total))
        self._trace.planned_host_bytes = max(self._trace.planned_host_bytes, total.features * self._memory.offload)
        self._warn_of(total)

    def _total(self) -> Need:
        """Of all lanes, each with the denoiser that needs most: what another one left is freed when it takes over."""
        most: dict[str, Need] = {}
        for (lane, _), each in self._needs.items():
            most[lane] = max(most.get(lane, Need()), each, key=self._weight)
        return sum(most.values(), Need())

    def _weight(self, needed: Need) -> tuple[int, int]:
        return self._on_device(needed), needed.features

    def _on_device(self, needed: Need) -> int:
        return needed.taps + (0 if self._memory.offload else needed.features)

    def _over_budget(self, total: Need) -> OverBudget:
        where = " in main memory" if self._memory.offload else ""
        return OverBudget(
            complaint(
                f"a run that would keep {size(total.features)} of features{where} and {size(total.taps)} of samples",
                f"at most {size(self._memory.limit or 0)} on the device between steps (max_memory)",
                " or ".join(self._ways_out(total)),
            )
        )

    def _ways_out(self, total: Need) -> list[str]:
        """What a person can do about it, the cheapest first."""
        ways = []
        if total.taps > total.features and self._policy.tap_share is not None:
            ways.append("compare small samples (token_sample=None)")
        if total.features and not self._memory.offload:
            ways.append('let features wait in main memory (memory="offload")')
        predictor = self._policy.feature_predictor
        if predictor is not None and predictor.history > 1 and not self._memory.offload:
            ways.append(f"keep one feature and not {predictor.history} (predictor Last())")
        return [*ways, "make fewer frames, pixels or videos at once"]

    def _warn_of(self, total: Need) -> None:
        """A sample is small. All entries of all blocks are not, and nobody should find that out by running out."""
        held, share = self._on_device(total), self._policy.tap_share
        if held > MUCH and total.taps > total.features and share is not None:
            warnings.warn(
                f"{size(held)} will be kept on the device between steps, {size(total.taps)} of it to compare blocks by "
                f"(token_sample={share:g}); token_sample=None keeps a small sample",
                MuchKept,
                stacklevel=2,
            )
