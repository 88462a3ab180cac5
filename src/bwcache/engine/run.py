"""Everything that changes during one run, and goes with it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bwcache.core import Action, Event, Step, Trace
from bwcache.engine import timing
from bwcache.engine.alike import version
from bwcache.engine.clock.call import Inputs
from bwcache.engine.guidance import Layouts
from bwcache.engine.idle import Outlines
from bwcache.engine.lane import Lane
from bwcache.engine.lockstep import Votes
from bwcache.engine.memory import DEFAULT, Memory, MemoryNeed, MemoryPlan
from bwcache.engine.numbers import Numbers, arrive
from bwcache.engine.plan import Plan
from bwcache.engine.together import Together
from bwcache.features import PredictionError
from bwcache.features.offload import Offload
from bwcache.features.store import Held, Signature, Streams
from bwcache.features.taps import Taps, taps
from bwcache.models import Site
from bwcache.policies import Observation, Policy, Readings

if TYPE_CHECKING:
    from bwcache.engine.ranks import Related

Intervals = list[tuple[timing.Mark, timing.Mark]]


@dataclass(eq=False, slots=True)
class Row:
    """A row of the trace whose numbers are still on the device.

    Attributes:
        event: the row itself.
        step, lane, site, plan: where it was.
        numbers: of its forward, if there are any; `measured`, `finite` and `error` say where its own stand there.
        blocks, indicator: time spent, if it is taken.
    """

    event: Event
    step: Step
    lane: Lane
    site: Site
    plan: Plan
    numbers: Numbers | None
    measured: slice | None = None
    finite: slice | None = None
    error: slice | None = None
    blocks: Intervals = field(default_factory=list)
    indicator: Intervals = field(default_factory=list)

    def readings(self) -> Readings | None:
        """Return what its forward's taps measured; waits."""
        values = None if self.numbers is None else self.numbers.read(self.measured)
        if values is None:
            return None
        half = len(values) // 2
        return Readings(tuple(values[:half]), tuple(values[half:]), self.plan.channels, self.plan.places)

    def prediction_error(self) -> PredictionError | None:
        """Return how close the predictor would have come; waits."""
        values = None if self.numbers is None else self.numbers.read(self.error)
        return None if values is None else PredictionError(*values)

    def is_finite(self) -> bool | None:
        """Return whether all that was kept is finite; None where nothing was, or not on all ranks; waits."""
        values = None if self.numbers is None else self.numbers.read(self.finite)
        return None if values is None else math.isfinite(values[0])


class Run:
    """Trace, lanes and policy state of one run.

    Args:
        policy: the settings.
        meta: what is known of the run, for its trace.
        related: the ranks that decide together.
        memory: where features wait.
        guided: whether the pipeline says that it guides.
        on_event: what is told of each row as it is noted.

    Attributes:
        thread: in which it goes on.
        stopped: whether it is to stop.
        forgotten: how often all that is kept was forgotten.
        ranks: those that have parts of this video, or None; `together`: what they tell each other.
        votes: of the ranks that compute at the same time, or None; `alone`: there are neither.
        pending: the computed rows whose numbers are wanted when the next decision is due.
        evaluated: the last call of a denoiser, by its lanes, where it is evaluated once more.
        errors: how close the predictor came at the last computed step, over all branches: by sample, and by site as
            events name it.
    """

    def __init__(
        self,
        policy: Policy[Any],
        meta: dict[str, Any],
        related: Related | None = None,
        memory: Memory = DEFAULT,
        guided: bool = False,
        on_event: Sequence[Callable[[Event], object]] = (),
    ) -> None:
        self.policy = policy
        self.trace = Trace(meta)
        self.evaluated: dict[str, Any] = {}
        self.ranks = ranks = None if related is None else related.parts
        setting = f"{meta.get('policy')} {meta.get('total')} {version()}"
        self.together = None if ranks is None else Together(ranks, setting)
        self.votes = Votes(related.voters) if related is not None and related.lockstep is not None else None
        self.alone = self.together is None and self.votes is None
        self.held = Held(Offload() if memory.offload else None)
        self.memory = MemoryPlan(memory, self.trace, policy, ranks, self.votes)
        self.guided = guided
        self.thread = threading.current_thread()
        self.stopped = False
        self.forgotten = 0
        self.state = policy.init()
        self.lanes: dict[tuple[str, int | None], Lane] = {}
        self.idle: dict[Inputs, Outlines] = {}
        self._on_event = on_event
        self.errors: dict[tuple[int | None, str], PredictionError] = {}
        self.pending: list[Row] = []
        self._ordinals: dict[str, int] = {}
        self.layouts = Layouts()
        self._skipped: dict[str, object] = {}
        self._steps = (-1, -1)

    def lane(self, step: Step, denoiser: str) -> Lane:
        """Return the lane of a step that comes by now.

        What is kept of it is dropped if it stayed away for a step (guidance that pauses), or another denoiser ran it.
        """
        index, key = step.index, (step.branch, step.sample)
        if index != self._steps[1]:
            self._steps = (self._steps[1], index)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(step.lane, step.branch, self.held)
        elif lane.visited < self._steps[0] or lane.denoiser != denoiser:
            lane.forget()
        lane.visited, lane.denoiser = index, denoiser
        return lane

    def pass_over(self, branch: str, skipped: Tensor | None) -> None:
        """Which rows pass over which blocks, `[blocks, batch]`: what is kept of a branch holds for the same alone.

        Args:
            branch: its name; of several in equal parts of one batch all of their names, with a + between.
        """
        names, rows = branch.split("+"), None if skipped is None else skipped.tolist()
        for i, name in enumerate(names):
            found = None if rows is None else [_part(row, i, len(names)) for row in rows]
            if self._skipped.setdefault(name, found) != found:
                for lane in self.lanes.values():
                    if name in lane.branch.split("+"):
                        lane.forget()
                self._skipped[name] = found

    def taps(self, lane: Lane, plan: Plan, feature: Tensor) -> Taps:
        """Return the taps of a lane. Each branch looks at other entries; a sample at those it has when alone."""
        if lane.taps is None:
            ordinal, count = self._ordinals.setdefault(lane.branch, len(self._ordinals)), len(plan.samples)
            lane.taps = taps(feature, count, plan.policy.tap_share, first=ordinal * count)
        return lane.taps

    def keep(self, lane: Lane, site: str, signature: Signature, step: Step, streams: Streams, history: int) -> bool:
        """Keep a computed feature, if there is room: a stack may return more than what entered it, and was planned.

        Raises:
            OverBudgetError: there is none, and this is the run's first step.
        """
        slot = lane.slots.get(site) or lane.slot(site)
        if self.memory.limited:
            more = slot.growth(signature, streams, history)
            held = MemoryNeed(self.held.device + more, self.held.sampled)
            if more > 0 and not self.memory.fits(held):
                self.memory.refuse([lane], held, self.in_first_step and self.ranks is None)
                lane.forget()
                return False
        slot.push(signature, step, streams, history)
        lane.told = False
        return True

    def note(
        self,
        step: Step,
        site: str,
        action: Action,
        reason: str,
        value: float | None = None,
        evaluated_at: float | None = None,
    ) -> Event:
        """Append a row, and return it."""
        event = Event(
            step.run,
            step.index,
            step.total,
            step.timestep,
            step.sigma,
            step.branch,
            site,
            action,
            reason,
            sample=step.sample,
            value=value,
            evaluated_at=evaluated_at,
        )
        self.trace.events.append(event)
        for call in tuple(self._on_event):
            call(event)
        return event

    def note_bytes(self, lanes: Sequence[Lane], hidden: int) -> None:
        """Take note of what is held after a forward of these lanes, and of the size of one hidden state.

        Raises:
            OverBudgetError: as `keep`.
        """
        trace = self.trace
        if hidden > trace.hidden_bytes:
            trace.hidden_bytes = hidden
        held = self.held
        for lane in lanes:
            lane.count_samples()
        if self.memory.limited:
            self._hold_to_limit(lanes, held.sampled)
        trace.peak_bytes = max(trace.peak_bytes, held.device + held.sampled)
        trace.host_bytes = max(trace.host_bytes, held.host)

    def _hold_to_limit(self, lanes: Sequence[Lane], sampled: int) -> None:
        predictor = self.policy.feature_predictor
        history = predictor.history if predictor else 0
        features = sum(slot.full_bytes(history) for lane in self.lanes.values() for slot in lane.slots.values())
        held = MemoryNeed(features, sampled)
        if not self.memory.fits(held):
            self.memory.refuse(lanes, held, self.in_first_step and self.ranks is None)
            for lane in lanes:
                lane.forget()

    @property
    def is_told_to_stop(self) -> bool:
        """Whether a rank was told to stop, as all know that decide together."""
        return (self.together is not None and self.together.stops) or (self.votes is not None and self.votes.stops)

    def tell_to_stop(self) -> None:
        """Let all that decide together hear that they are to stop."""
        said = self.votes or self.together
        if said is not None:
            said.wants_stop = True

    def tell_to_forget(self) -> bool:
        """Forget what is kept, at once if all ranks are told that have parts of this video; return whether.

        In lockstep nothing has to be said: who has nothing to reuse computes, and then all do.
        """
        if self.together is None or self.votes is not None:
            self.invalidate()
            return True
        if threading.current_thread() is self.thread and self.together.all_are_told():
            self.invalidate()
            return True
        self.together.wants_forget = self.together.waits_to_forget = True
        return False

    @property
    def in_first_step(self) -> bool:
        """Whether no step came before the present one."""
        return self._steps[0] < 0

    def resolve(self) -> None:
        """Take what the computed forwards measured, and tell policy and trace."""
        pending, self.pending = self.pending, []
        arrive([row.numbers for row in pending])
        errors: dict[tuple[int | None, str], PredictionError] = {}
        for row in pending:
            event, lane, site = row.event, row.lane, row.site
            readings, error = self._tell(row)
            lane.not_finite.discard(site.name)
            if row.finite is not None:
                finite = row.is_finite()
                if finite is False:
                    lane.not_finite.add(site.name)
                if finite is False or (finite is None and event.action == "compute"):
                    lane.slot(site.name).drop()  # also where some rank could not keep it, so that none may use it
            if error is not None:
                key = (row.step.sample, event.site)
                errors[key] = errors[key] + error if key in errors else error
            if event.action != "reuse":
                lane.last = readings
                name, kind = row.plan.stack.name, site.first.kind
                seen = Observation(
                    row.step, site.name, readings, error, name, kind=kind, evaluated_at=event.evaluated_at
                )
                self.policy.refresh(seen, self.state)
        for key, error in errors.items():
            if error.square > 0:
                self.errors[key] = error

    def as_it_stands(self) -> Trace:
        """Return the trace with all that was measured so far. Changes nothing: the policy is told when it is due."""
        pending = list(self.pending)
        arrive([row.numbers for row in pending])
        for row in pending:
            self._tell(row)
        return self.trace

    def _tell(self, row: Row) -> tuple[Readings | None, PredictionError | None]:
        """Complete a row of the trace by what was measured, and return that."""
        readings = None if row.measured is None else row.readings()
        error = None if row.error is None else row.prediction_error()
        event = row.event
        if readings:
            event.indicator, event.distances = readings.mean, readings.distances
        if error:
            event.error = error.error
        if row.blocks:
            event.seconds, event.indicator_seconds = timing.seconds(row.blocks), timing.seconds(row.indicator)
        return readings, error

    def invalidate(self) -> None:
        """Forget all that is kept: whatever it was made from has changed."""
        self.forgotten += 1
        for lane in list(self.lanes.values()):
            lane.forget()
            lane.told = True

    def close(self) -> None:
        """The run is over: the trace is completed and everything else freed."""
        self.resolve()
        self.lanes.clear()
        self.idle.clear()


def _part(row: list[object], i: int, count: int) -> list[object]:
    """The i-th of so many equal parts; all of it where it cannot be cut."""
    size, left = divmod(len(row), count)
    return row if left else row[i * size : (i + 1) * size]
