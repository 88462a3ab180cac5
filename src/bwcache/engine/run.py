"""Everything that changes during one run, and goes with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bwcache.core import Event, Step, Trace
from bwcache.engine import timing
from bwcache.engine.guidance import Layouts
from bwcache.engine.idle import Inputs, Outlines
from bwcache.engine.lane import Lane
from bwcache.engine.memory import DEFAULT, Memory, MemoryNeed, MemoryPlan
from bwcache.engine.numbers import Numbers, arrive
from bwcache.features import PredictionError
from bwcache.features.offload import Offload
from bwcache.features.store import Held, Signature, Streams
from bwcache.features.taps import Taps, taps
from bwcache.policies import Observation, Policy, Readings

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Intervals = list[tuple[timing.Mark, timing.Mark]]


@dataclass(eq=False, slots=True)
class Row:
    """A row of the trace whose numbers are still on the device.

    Attributes:
        event: its place in the trace.
        step, lane, denoiser, site, kind: where it was.
        numbers: of its forward; `measured`, `finite` and `error` say where its own stand there.
        blocks, indicator: time spent, if it is taken.
    """

    event: int
    step: Step
    lane: Lane
    denoiser: str
    site: str
    kind: str
    numbers: Numbers
    measured: slice | None = None
    channels: tuple[int, ...] = ()
    places: tuple[str, ...] = ()
    finite: slice | None = None
    error: slice | None = None
    blocks: Intervals = field(default_factory=list)
    indicator: Intervals = field(default_factory=list)

    def readings(self) -> Readings | None:
        """Return what its forward's taps measured; waits."""
        values = self.numbers.read(self.measured)
        if values is None:
            return None
        half = len(values) // 2
        return Readings(tuple(values[:half]), tuple(values[half:]), self.channels, self.places)

    def prediction_error(self) -> PredictionError | None:
        """Return how close the predictor would have come; waits."""
        values = None if self.error is None else self.numbers.read(self.error)
        return None if values is None else PredictionError(*values)


class Run:
    """Trace, lanes and policy state of one run.

    Args:
        policy: the settings.
        meta: what is known of the run, for its trace.
        group: process group of the ranks that work on this video, or None.
        memory: where features wait.
        guided: whether the pipeline says that it guides.
        on_event: told of each row as it is noted.
    """

    def __init__(
        self,
        policy: Policy[Any],
        meta: dict[str, Any],
        group: ProcessGroup | None = None,
        memory: Memory = DEFAULT,
        guided: bool = False,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self.policy = policy
        self.trace = Trace(meta)
        self.group = group
        self.held = Held(Offload() if memory.offload else None)
        self.memory = MemoryPlan(memory, self.trace, policy)
        self.guided = guided
        self.state = policy.init()
        self.lanes: dict[str, Lane] = {}
        self.idle: dict[Inputs, Outlines] = {}
        self._on_event = on_event
        self._errors: dict[tuple[int | None, str], PredictionError] = {}
        self._pending: list[Row] = []
        self._ordinals: dict[str, int] = {}
        self.layouts = Layouts()
        self._skipped: dict[str, object] = {}
        self._steps = (-1, -1)

    def lane(self, step: Step, denoiser: str) -> Lane:
        """Return the lane of a step that comes by now.

        What is kept of it is dropped if it stayed away for a step (guidance that pauses), or another denoiser ran it.
        """
        if step.index != self._steps[1]:
            self._steps = (self._steps[1], step.index)
        lane = self.lanes.get(step.lane)
        if lane is None:
            lane = self.lanes[step.lane] = Lane(step.lane, step.branch, self.held)
        stayed_away = lane.visited is not None and lane.visited < self._steps[0]
        if stayed_away or lane.denoiser != denoiser:
            lane.forget()
        lane.visited, lane.denoiser = step.index, denoiser
        return lane

    def pass_over(self, branch: str, skipped: Tensor | None) -> None:
        """Which rows pass over which blocks, `[blocks, batch]`: what is kept of a branch holds for the same alone."""
        found = None if skipped is None else skipped.tolist()
        if self._skipped.setdefault(branch, found) != found:
            for lane in self.lanes.values():
                if lane.branch == branch:
                    lane.forget()
            self._skipped[branch] = found

    def taps(self, lane: Lane, count: int, feature: Tensor) -> Taps:
        """Return the taps of a lane. Each branch looks at other entries; a sample at those it has when alone."""
        if lane.taps is None:
            ordinal = self._ordinals.setdefault(lane.branch, len(self._ordinals))
            lane.taps = taps(feature, count, self.policy.tap_share, first=ordinal * count)
        return lane.taps

    def error(self, step: Step, where: str) -> PredictionError | None:
        """Return how close the predictor came at the last computed step of this sample, over all its branches.

        Args:
            where: the site, as events name it.
        """
        return self._errors.get((step.sample, where))

    def keep(self, lane: Lane, site: str, signature: Signature, step: Step, streams: Streams, history: int) -> bool:
        """Keep a computed feature, if there is room: a stack may return more than what entered it, and was planned.

        Raises:
            OverBudget: there is none, and this is the run's first step.
        """
        slot = lane.slot(site)
        if self.memory.limited:
            more = slot.growth(signature, streams, history)
            held = MemoryNeed(self.held.device + more, self._sampled_bytes)
            if more > 0 and not self.memory.fits(held):
                self.memory.refuse([lane], held, self.in_first_step)
                lane.forget()
                return False
        slot.push(signature, step, streams, history)
        return True

    def note(self, event: Event) -> int:
        """Append a row; return its place."""
        self.trace.events.append(event)
        if self._on_event is not None:
            self._on_event(event)
        return len(self.trace.events) - 1

    def note_hidden(self, nbytes: int) -> None:
        """Take note of the size of one hidden state."""
        self.trace.hidden_bytes = max(self.trace.hidden_bytes, nbytes)

    def note_bytes(self, lanes: Sequence[Lane]) -> None:
        """Take note of what is held after a forward.

        Raises:
            OverBudget: as `keep`.
        """
        sampled = self._sampled_bytes
        if self.memory.limited:
            self._hold_to_limit(lanes, sampled)
        self.trace.peak_bytes = max(self.trace.peak_bytes, self.held.device + sampled)
        self.trace.host_bytes = max(self.trace.host_bytes, self.held.host)

    def _hold_to_limit(self, lanes: Sequence[Lane], sampled: int) -> None:
        predictor = self.policy.feature_predictor
        history = predictor.history if predictor else 0
        features = sum(slot.full_bytes(history) for lane in self.lanes.values() for slot in lane.slots.values())
        held = MemoryNeed(features, sampled)
        if not self.memory.fits(held):
            self.memory.refuse(lanes, held, self.in_first_step)
            for lane in lanes:
                lane.forget()

    @property
    def _sampled_bytes(self) -> int:
        return sum([lane.sampled_bytes for lane in self.lanes.values()])

    @property
    def in_first_step(self) -> bool:
        """Whether no step came before the present one."""
        return self._steps[0] < 0

    def wait_for(self, row: Row) -> None:
        """A computed row's numbers are wanted when the next decision is due."""
        self._pending.append(row)

    def resolve_before(self, step: Step) -> None:
        """As `resolve`, once per step: what other branches measured in this same step is for the next one."""
        if self._pending and self._pending[0].step.index != step.index:
            self.resolve()

    def resolve(self) -> None:
        """Take what the computed forwards measured, and tell policy and trace."""
        pending, self._pending = self._pending, []
        arrive([row.numbers for row in pending])
        errors: dict[tuple[int | None, str], PredictionError] = {}
        for row in pending:
            readings, error, finite = row.readings(), row.prediction_error(), row.numbers.read(row.finite)
            row.lane.not_finite.discard(row.site)
            if finite is not None and not math.isfinite(finite[0]):
                row.lane.slot(row.site).drop()
                row.lane.not_finite.add(row.site)
            if error is not None:
                key = (row.step.sample, self.trace.events[row.event].site)
                errors[key] = errors[key] + error if key in errors else error
            self._tell(row, readings, error)
            if self.trace.events[row.event].action != "reuse":
                row.lane.last = readings
                seen = Observation(row.step, row.site, row.lane.last, error, row.denoiser, kind=row.kind)
                self.policy.refresh(seen, self.state)
        self._errors |= {key: error for key, error in errors.items() if error.square > 0}

    def as_it_stands(self) -> Trace:
        """Return the trace with all that was measured so far. Changes nothing: the policy is told when it is due."""
        pending = list(self._pending)
        arrive([row.numbers for row in pending])
        for row in pending:
            self._tell(row, row.readings(), row.prediction_error())
        return self.trace

    def _tell(self, row: Row, readings: Readings | None, error: PredictionError | None) -> None:
        """Complete a row of the trace."""
        found: dict[str, Any] = {}
        if readings:
            found |= {"indicator": readings.mean, "distances": readings.distances}
        if error:
            found |= {"error": error.error}
        if row.blocks:
            found |= {"seconds": timing.seconds(row.blocks), "indicator_seconds": timing.seconds(row.indicator)}
        if found:
            self.trace.events[row.event] = replace(self.trace.events[row.event], **found)

    def invalidate(self) -> None:
        """Forget all that is kept: whatever it was made from has changed."""
        for lane in self.lanes.values():
            lane.forget()

    def close(self) -> None:
        """The run is over: the trace is completed and everything else freed."""
        self.resolve()
        self.lanes.clear()
        self.idle.clear()
