"""What a run will hold between steps: counted before its first block runs, and never more than is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwcache.core import Trace
from bwcache.core.amounts import in_bytes, size
from bwcache.engine import reasons
from bwcache.engine.batch import BatchLayout
from bwcache.engine.lane import Lane
from bwcache.engine.plan import Plan
from bwcache.errors import MuchKeptWarning, OverBudgetError, SettingError, complaint, warn
from bwcache.features import Sample, prediction_error, taps
from bwcache.models import Place
from bwcache.policies import Policy

if TYPE_CHECKING:
    from bwcache.engine.lockstep import Votes
    from bwcache.engine.ranks import Parts

Outlines = dict[str, Tensor]
"""Streams without values, by name."""

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
class MemoryNeed:
    """Bytes that will be held between steps: of features, and of what taps and foretellings sample."""

    features: int = 0
    taps: int = 0

    def __add__(self, other: MemoryNeed) -> MemoryNeed:
        return MemoryNeed(self.features + other.features, self.taps + other.taps)

    def __mul__(self, times: int) -> MemoryNeed:
        return MemoryNeed(self.features * times, self.taps * times)


def outlines(entered: Mapping[str, Any], rows: BatchLayout) -> Outlines:
    """Return one sample's rows of the streams that enter a place, without their values."""
    return {name: _of_one(value, rows) for name, value in entered.items() if isinstance(value, Tensor)}


def need(plan: Plan, entered: Outlines, outside: Mapping[str, Outlines]) -> MemoryNeed:
    """Return what one lane will need: most stacks, and most denoisers, return the like of what enters them.

    Args:
        plan: where the policy acts.
        entered: the first block or part of one; where the policy acts on nothing inside, the denoiser itself.
        outside: places that are called before, by name: latents are no hidden states, though they often go by one name.
    """
    policy, predictor = plan.policy, plan.policy.feature_predictor
    first = (plan.stack.blocks or (plan.stack.root,))[0].measured

    def like(name: str, place: Place | None = None) -> Tensor:
        """A stream that only later blocks know is taken to be like the measured one."""
        streams = entered if place is None else outside.get(place.name, entered)
        found = streams.get(name, streams.get(first, next(iter(streams.values()), None)))
        return torch.empty(0, device="meta") if found is None else found

    sampled = [plan.taps[number] for number in plan.samples]
    needed = MemoryNeed()
    if sampled:
        needed = MemoryNeed(taps=taps.planned_bytes(like(sampled[0].stream), len(sampled), policy.tap_share))
    for tap in (plan.taps[number] for number in plan.looks):
        view = tap.view or Sample(policy.tap_share)
        needed += MemoryNeed(taps=view.planned_bytes(like(tap.stream, tap.place)) * max(tap.lags))
    if predictor is None or not plan.keeps:
        return needed
    for site in plan.sites:
        features = sum(like(name, site.first).nbytes for name in site.streams)
        if site.keeps == "clean":  # in single precision at least
            features = sum(
                like(name, site.first).numel() * max(4, like(name, site.first).itemsize) for name in site.streams
            )
            if policy.looks_ahead:  # to tell where the latents go
                needed += MemoryNeed(sum(like(name, site.first).nbytes for name in site.streams))
        if site.keeps == "beside":  # and the value of the branch that it stands beside
            needed += MemoryNeed(features)
        needed += MemoryNeed(features * predictor.history)
        if policy.needs_errors:
            judged = plan.stack.spec.measured if plan.stack.spec.measured in site.streams else site.streams[0]
            needed += MemoryNeed(taps=prediction_error.planned_bytes(like(judged, site.first), predictor))
    return needed


def _of_one(stream: Tensor, rows: BatchLayout) -> Tensor:
    """The outline of one sample's rows of a stream, without its values."""
    sizes = rows.size(stream.shape)
    return torch.empty(sizes, dtype=stream.dtype, device="meta")


class MemoryPlan:
    """What each lane of a run needs, against what may be held on the device between steps.

    Args:
        memory: the settings.
        trace: where the plan is written down.
        policy: for advice.
        ranks: those that have parts of one video: what one of them has no room for, all refuse.
        votes: those of ranks that compute together: they hear of a refusal, and then all refuse.

    Attributes:
        needs: of each lane and denoiser that is counted.
        limited: whether there is a limit to what may be held.
    """

    def __init__(
        self,
        memory: Memory,
        trace: Trace,
        policy: Policy[Any],
        ranks: Parts | None = None,
        votes: Votes | None = None,
    ) -> None:
        self._memory, self._trace, self._policy, self._ranks, self._votes = memory, trace, policy, ranks, votes
        self.limited = memory.limit is not None
        self.needs: dict[tuple[str, str], MemoryNeed] = {}

    def refuse(self, lanes: Sequence[Lane], total: MemoryNeed, run: bool) -> None:
        """Nothing is kept of these lanes from now on: with them, more would be held than is allowed.

        Args:
            total: what would be held.
            run: whether to refuse the whole run instead.

        Raises:
            OverBudgetError: the run is refused; with votes, on all ranks at the next one.
        """
        if run and self._votes is None:
            raise self._over_budget(total)
        if run and self._votes is not None:
            self._votes.refusal = self._over_budget(total)
        over = f"{reasons.OVER_MEMORY} ({size(self._on_device(total))}, {size(self._memory.limit or 0)} allowed)"
        for lane in lanes:
            lane.refused = over

    def fits(self, held: MemoryNeed) -> bool:
        """Whether so much may be held."""
        return self._memory.limit is None or self._on_device(held) <= self._memory.limit

    def reserve(self, lanes: Sequence[Lane], denoiser: str, each: MemoryNeed, branches: int, refuses: bool) -> None:
        """Counts lanes before the first block of their first forward.

        Args:
            lanes, denoiser, each: what is new, and what each lane needs.
            branches: how many guidance branches are to come, these lanes' own among them.
            refuses: whether the run may still be refused; later on, lanes without room are computed and not kept.

        Raises:
            OverBudgetError: the run would hold more than is allowed.
        """
        self.needs |= {(lane.name, denoiser): each for lane in lanes}
        total = max(self._total(), each * (len(lanes) * branches), key=self._weight)
        fits = self.fits(total)
        if refuses and self._ranks is not None and self.limited:
            fits = not self._ranks.any(not fits)
        if not fits:
            self.needs |= dict.fromkeys(((lane.name, denoiser) for lane in lanes), MemoryNeed())
            self.refuse(lanes, total, refuses)
            return
        self._trace.planned_bytes = max(self._trace.planned_bytes, self._on_device(total))
        self._trace.planned_host_bytes = max(self._trace.planned_host_bytes, total.features * self._memory.offload)
        self._warn_of(total)

    def _total(self) -> MemoryNeed:
        """Of all lanes, each with the denoiser that needs most: what another one left is freed when it takes over."""
        most: dict[str, MemoryNeed] = {}
        for (lane, _), each in self.needs.items():
            most[lane] = max(most.get(lane, MemoryNeed()), each, key=self._weight)
        return sum(most.values(), MemoryNeed())

    def _weight(self, needed: MemoryNeed) -> tuple[int, int]:
        return self._on_device(needed), needed.features

    def _on_device(self, needed: MemoryNeed) -> int:
        return needed.taps + (0 if self._memory.offload else needed.features)

    def _over_budget(self, total: MemoryNeed) -> OverBudgetError:
        where = " in main memory" if self._memory.offload else ""
        alone = "" if self._ranks is None else f" on this rank, and too much on some of {self._ranks.count}"
        return OverBudgetError(
            complaint(
                f"a run that would keep {size(total.features)} of features{where} and {size(total.taps)} of samples"
                + alone,
                f"at most {size(self._memory.limit or 0)} on the device between steps (max_memory)",
                " or ".join(self._ways_out(total)),
            )
        )

    def _ways_out(self, total: MemoryNeed) -> list[str]:
        """What a person can do about it, the cheapest first."""
        ways = []
        if total.taps > total.features and self._policy.tap_share is not None:
            ways.append("compare small samples (sample=None)")
        if total.features and not self._memory.offload:
            ways.append('let features wait in main memory (memory="offload")')
        predictor = self._policy.feature_predictor
        if predictor is not None and predictor.history > 1 and not self._memory.offload:
            ways.append(f"keep one feature and not {predictor.history} (predictor Last())")
        return [*ways, "make fewer frames, pixels or videos at once"]

    def _warn_of(self, total: MemoryNeed) -> None:
        """A sample is small. All entries of all blocks are not, and nobody should find that out by running out."""
        held, share = self._on_device(total), self._policy.tap_share
        if held > MUCH and total.taps > total.features and share is not None:
            warn(
                f"{size(held)} will be kept on the device between steps, {size(total.taps)} of it to compare blocks by "
                f"(sample={share:g}); sample=None keeps a small sample",
                MuchKeptWarning,
            )
