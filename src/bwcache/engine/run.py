"""Everything that changes during one run, and goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from torch import Tensor

from bwcache.core import Event, Step, Trace
from bwcache.engine import ranks, samples, timing
from bwcache.engine.idle import Inputs, Outlines
from bwcache.engine.memory import DEFAULT, Account, Memory, Need
from bwcache.engine.reading import Reading, arrived
from bwcache.engine.samples import Outline, Rows
from bwcache.features import FeatureStore
from bwcache.features.foretelling import Foretelling
from bwcache.features.store import Key, Signature
from bwcache.features.taps import Taps, taps
from bwcache.models import BlockStack
from bwcache.policies import Foretold, Measured, Observation, Policy


@dataclass
class Pending:
    """A computed forward whose numbers are still on the device.

    Attributes:
        event: its row in the trace.
        step, key: where it was.
        measured: `[2, T]`, or None where there was nothing to compare with.
        sums: the sum of all kept features, finite only if they are; None if nothing was kept.
        foretold: `[4]`, how close the predictor would have come, or None.
        blocks, indicator: time spent, if it is taken.
    """

    event: int
    step: Step
    key: Key
    measured: Tensor | None
    sums: Tensor | None
    foretold: Tensor | None = None
    blocks: list[tuple[timing.Mark, timing.Mark]] = field(default_factory=list)
    indicator: list[tuple[timing.Mark, timing.Mark]] = field(default_factory=list)

    def numbers(self) -> list[Tensor]:
        """All that is there, in the order of the fields."""
        return [part for part in (self.measured, self.sums, self.foretold) if part is not None]


class RunState:
    """Trace, features, taps and policy state of one run.

    Args:
        policy: the settings.
        meta: what is known of the run, for its trace.
        group: process group of the ranks that work on this video, or None.
        memory: where features wait, and how much may be held.
        guided: whether the pipeline guides, as far as it says so.

    `spoilt` says of what the last computed feature was not finite, `outlines` what blocks returned, by branch and
    block, where that cannot be told from what entered them, and `routes` which blocks a lane last ran through.
    `given` says with which inputs what is kept of a lane was made, `idle` what the idle modules returned with them.
    """

    def __init__(
        self, policy: Policy[Any], meta: dict[str, Any], group: Any, memory: Memory = DEFAULT, guided: bool = False
    ) -> None:
        self.policy = policy
        self.trace = Trace(meta)
        self.store = FeatureStore(memory.offload)
        self.account = Account(memory, self.trace, policy)
        self.guided = guided
        self.state = policy.init()
        self._taps: dict[Key, Taps] = {}
        self._foretellings: dict[Key, Foretelling] = {}
        self._dampings: dict[tuple[int | None, str], float] = {}
        self._pending: list[tuple[Pending, Reading]] = []
        self._group = group
        self.spoilt: set[Key] = set()
        self.outlines: dict[tuple[str, int], Outline] = {}
        self.routes: dict[str, list[int]] = {}
        self.given: dict[str, Inputs | None] = {}
        self.idle: dict[Inputs, Outlines] = {}
        self._ordinals: dict[str, int] = {}
        self._branches: dict[tuple[str, int], int] = {}
        self._denoisers: dict[str, str] = {}
        self._skipped: dict[str, object] = {}
        self._visited: dict[str, int] = {}
        self._steps = (-1, -1)

    def taps(self, step: Step, denoiser: str, count: int, feature: Tensor) -> Taps:
        """The taps of a denoiser in a lane. Each branch looks at other entries; a sample at those it has when alone."""
        key = (step.lane, f"{denoiser}/taps")
        if key not in self._taps:
            ordinal = self._ordinals.setdefault(step.branch, len(self._ordinals))
            self._taps[key] = taps(feature, count, self.policy.tap_share, first=ordinal * count)
        return self._taps[key]

    def foretold(self, step: Step, key: Key, feature: Tensor) -> Tensor | None:
        """How close the predictor would have come to a feature that was computed, on its way from the device."""
        predictor = self.policy.feature_predictor
        assert predictor is not None
        foretelling = self._foretellings.setdefault(key, Foretelling(predictor))
        return foretelling.compare(feature, step.coordinate, self.damping(step, key))

    def damping(self, step: Step, key: Key) -> float:
        """How far a damped predictor goes: as it would have been best at the last computed step of this sample."""
        return self._dampings.get((step.sample, key[1]), 1.0)

    def note(self, event: Event) -> int:
        """Appends a row; returns its place."""
        self.trace.events.append(event)
        return len(self.trace.events) - 1

    def await_numbers(self, pending: Pending) -> None:
        """Sends a computed forward's numbers on their way: they are wanted when the next decision is due."""
        agreed = [ranks.agree(part, self._group).flatten() for part in pending.numbers()]
        self._pending.append((pending, Reading(agreed)))

    def note_hidden(self, nbytes: int) -> None:
        """Takes note of the size of one hidden state."""
        self.trace.hidden_bytes = max(self.trace.hidden_bytes, nbytes)

    def note_bytes(self, steps: Sequence[Step]) -> None:
        """Takes note of what is held after a forward.

        Raises:
            OverBudget: as `keep`.
        """
        if self.account.limited:
            self._hold_to_limit(steps)
        self.trace.peak_bytes = max(self.trace.peak_bytes, self.store.nbytes + self._sampled_bytes)
        self.trace.host_bytes = max(self.trace.host_bytes, self.store.host_bytes)

    def _hold_to_limit(self, steps: Sequence[Step]) -> None:
        predictor = self.policy.feature_predictor
        held = Need(self.store.full_bytes(predictor.history if predictor else 0), self._sampled_bytes)
        if not self.account.fits(held):
            self.account.refuse([step.lane for step in steps], held, self.in_first_step)
            for step in steps:
                self.forget(step.lane)

    @property
    def _sampled_bytes(self) -> int:
        return sum(kept.nbytes for kept in [*self._taps.values(), *self._foretellings.values()])

    def keep(self, step: Step, key: Key, signature: Signature, streams: dict[str, Tensor], history: int) -> bool:
        """Keeps a computed feature, if there is room: a stack may return more than what entered it, and was planned.

        Raises:
            OverBudget: there is none, and this is the run's first step.
        """
        more = self.store.growth(key, signature, streams, history) if self.account.limited else 0
        held = Need(self.store.nbytes + more, self._sampled_bytes)
        if more > 0 and not self.account.fits(held):
            self.account.refuse([step.lane], held, self.in_first_step)
            self.forget(step.lane)
            return False
        self.store.put(key, signature, step.coordinate, streams, history)
        return True

    @property
    def in_first_step(self) -> bool:
        """Whether no step came before the present one."""
        return self._steps[0] < 0

    def nothing_kept(self, step: Step, key: Key) -> str | None:
        """Why there is nothing to reuse at a site, or None."""
        if self.store.get(key) is not None:
            return None
        if step.index == 0:
            return "first step"
        if key in self.spoilt:
            return "the last computed feature is not finite"
        return f"nothing kept to reuse (of {step.lane} at {key[1].split('/')[0]})"

    def rows(self, stack: BlockStack, branch: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rows:
        """How the samples lie in a forward's batch: guidance in one forward is told by equal latents."""
        batch = samples.batch(args, kwargs)
        if batch is None or len(batch) == 1 or not stack.spec.per_sample:
            return Rows()
        if samples.listed(len(batch), args, kwargs):
            return Rows()
        if (branch, len(batch)) not in self._branches:
            asked = stack.spec.guidance in ("batched", "either")
            self._branches[branch, len(batch)] = samples.branches(batch, _made(stack)) if asked else 1
        branches = self._branches[branch, len(batch)]
        return Rows(len(batch) // branches, branches, stack.spec.batch_axis)

    def forget(self, lane: str) -> None:
        """Drops what is kept of a lane."""
        self.store.drop_lane(lane)
        kept: tuple[dict[Key, Any], ...] = (self._taps, self._foretellings)
        for sampled in kept:
            for key in [key for key in sampled if key[0] == lane]:
                del sampled[key]

    def run_by(self, denoiser: str, lane: str) -> None:
        """Which denoiser runs a lane: what another one left there is of no use any more."""
        if self._denoisers.setdefault(lane, denoiser) != denoiser:
            self.forget(lane)
            self._denoisers[lane] = denoiser

    def pass_over(self, branch: str, skipped: Tensor | None) -> None:
        """Which rows pass over which blocks, `[blocks, batch]`: what is kept of a branch holds for the same alone."""
        found = None if skipped is None else skipped.tolist()
        if self._skipped.setdefault(branch, found) != found:
            for lane in [lane for lane in self._visited if lane.split("#")[0] == branch]:
                self.forget(lane)
            self._skipped[branch] = found

    def visit(self, step: Step) -> None:
        """A lane comes by; if it stayed away for a step (guidance that pauses), what is kept of it is too old."""
        if step.index != self._steps[1]:
            self._steps = (self._steps[1], step.index)
        if self._visited.get(step.lane, step.index) < self._steps[0]:
            self.forget(step.lane)
        self._visited[step.lane] = step.index

    def resolve(self) -> None:
        """Takes what the computed forwards measured, and tells policy and trace."""
        pending, self._pending = self._pending, []
        together: dict[tuple[int | None, str], Foretold] = {}
        for (forward, _), (measured, finite, foretold) in zip(pending, self._read(pending), strict=True):
            self.spoilt.discard(forward.key)
            if not finite:
                self.store.drop(forward.key)
                self.spoilt.add(forward.key)
            if foretold is not None:
                mine = (forward.step.sample, forward.key[1])
                together[mine] = together[mine] + foretold if mine in together else foretold
            self._tell(forward, measured, foretold)
        self._dampings |= {mine: foretold.damping for mine, foretold in together.items() if foretold.square > 0}

    def resolve_before(self, step: Step) -> None:
        """As `resolve`, once per step: what other branches measured in this same step is for the next one."""
        if self._pending and self._pending[0][0].step.index != step.index:
            self.resolve()

    def close(self) -> None:
        """The run is over: the trace is completed and everything else freed."""
        self.resolve()
        self.store = FeatureStore()
        self._taps.clear()
        self._foretellings.clear()

    def _read(self, pending: list[tuple[Pending, Reading]]) -> list[tuple[Measured | None, bool, Foretold | None]]:
        """What each forward measured, whether what it kept is finite, and how well that was foretold."""
        numbers = iter(arrived([reading for _, reading in pending]))
        read: list[tuple[Measured | None, bool, Foretold | None]] = []
        for forward, _ in pending:
            measured = None
            if forward.measured is not None:
                taps = forward.measured.shape[1]
                measured = Measured(tuple(islice(numbers, taps)), tuple(islice(numbers, taps)))
            finite = forward.sums is None or math.isfinite(next(numbers))
            foretold = None if forward.foretold is None else Foretold(*islice(numbers, 4))
            read.append((measured, finite, foretold))
        return read

    def _tell(self, forward: Pending, measured: Measured | None, foretold: Foretold | None) -> None:
        told: dict[str, Any] = {}
        if measured:
            told |= {"indicator": measured.mean, "distances": measured.distances}
        if foretold:
            told |= {"error": foretold.error}
        if forward.blocks:
            told |= {
                "seconds": timing.seconds(forward.blocks),
                "indicator_seconds": timing.seconds(forward.indicator),
            }
        event = self.trace.events[forward.event]
        if told:
            event = self.trace.events[forward.event] = replace(event, **told)
        if event.action == "compute":
            self.policy.refresh(Observation(forward.step, event.site, measured, foretold), self.state)


def _made(stack: BlockStack) -> int | None:
    """How many channels the denoiser makes; what a pipeline lays behind these (an image to go by) may differ."""
    made = getattr(getattr(stack.module, "config", None), "out_channels", None)
    return made if isinstance(made, int) else None
