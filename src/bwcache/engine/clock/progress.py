"""How far a run is, and what tells its steps: one class for each signal, all of one kind."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from bwcache.engine.clock.branches import Branches
from bwcache.engine.clock.rounded_times import FirstForward
from bwcache.engine.clock.schedule import LOW, TRAINED
from bwcache.engine.clock.times import exact_place, is_near, place

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call, Time
    from bwcache.engine.clock.schedule import Schedule

Where = tuple[float | None, float | None, float | None, float | None]

ANOTHER_RUN = -1
"""In place of a number of steps: a forward belongs to a new run."""


class Progress:
    """How far a run is.

    Attributes:
        index: of the present step.
        total: number of steps, or None where it is unknown.
        schedule: what the scheduler says of the run, or None.
        branches: those that have come by.
        marked: whether somebody said where the run begins and ends.
        repeats: whether it began since a name came again at the same time: another run, or a tile of the same one.
        where: timestep and sigma of the present step, and the share of noise before and after it; None: not found yet,
            or only each forward's own time is known.
        trained: how many training steps the timesteps count, as `Step.trained`; as the schedule says, else by the row
            and the highest so far.
    """

    def __init__(self, index: int, time: Time, marked: bool, counts_up: bool = False) -> None:
        self.index = index
        self.total: int | None = None
        self.schedule: Schedule | None = None
        self.branches = Branches()
        self.marked = marked
        self.repeats = False
        self.time = time
        self.where: Where | None = None
        self.trained: int | None = TRAINED
        self._highest = -math.inf
        self._counts_up = counts_up

    def moved(self, call: Call) -> int:
        """Return the sign of the change of the time since the last forward."""
        return call.time.since(self.time)

    @property
    def stands(self) -> bool:
        """Whether the next step has the time of this one, as the schedule says."""
        times = self.schedule.timesteps[self.index : self.index + 2] if self.schedule else ()
        return len(times) == 2 and times[0] == times[1]

    def go(self, steps: int) -> None:
        """Go on to a later step."""
        self.index += steps
        self.where = None
        self.branches.next_step(self.schedule is None)
        if self.branches.are_uncertain:
            self.total = None

    def fits_schedule(self, time: Time) -> bool:
        """Return whether the schedule has this time at the present step."""
        value, schedule = time.value, self.schedule
        if value is None or schedule is None or self.index >= len(schedule.timesteps):
            return False
        return is_near(value, schedule.timesteps[self.index])

    def found(self, time: Time) -> Where:
        """Return `where`, found out."""
        schedule, index = self.schedule, self.index
        if schedule is None or index >= len(schedule.timesteps):
            self._look_at(time.value)
            return time.value, None, self._noise(index), self._noise(index + 1)
        sigma = None if schedule.sigmas is None else schedule.sigmas[index]
        self.where = schedule.timesteps[index], sigma, self._noise(index), self._noise(index + 1)
        return self.where

    def _look_at(self, time: float | None) -> None:
        """Tell by the row and the highest time so far what nobody says: whether they are those of training."""
        if time is not None and self._counts_up:
            self.trained = -TRAINED
        elif time is not None:
            self._highest = max(time, self._highest)
            self.trained = TRAINED if self._highest >= LOW else None

    @property
    def noises(self) -> tuple[float, ...] | None:
        """The share of noise at each step and after the last one; None where the scheduler does not say it."""
        noises = self.schedule.noises if self.schedule else None
        return noises if noises is not None and self.total == len(noises) - 1 else None

    def _noise(self, index: int) -> float | None:
        """The share of noise before a step; as if all were even where the scheduler does not say it."""
        noises = self.schedule.noises if self.schedule else None
        if noises is not None and index < len(noises):
            return noises[index]
        return None if self.total is None else max(0.0, 1 - index / self.total)


class Signal(ABC):
    """What tells the steps of one run, made as it begins.

    Attributes:
        source: its name, in the trace.
        first: index of the step with which the run begins.
        place: where in the scheduler's timesteps that is; None where the scheduler has no say in this run.
    """

    source: ClassVar[str]
    first: int = 0
    place: int | None = None

    @classmethod
    @abstractmethod
    def begin(cls, call: Call) -> Signal | None:
        """Return the signal of a run that begins with this forward, or None if it tells nothing of it."""

    @abstractmethod
    def ahead(self, call: Call, progress: Progress) -> int | None:
        """Return by how many steps a forward is ahead of the last one.

        `ANOTHER_RUN` where it belongs to a new run; None where the signal contradicts itself.
        """


def first_place(call: Call) -> int:
    """Return where in a schedule sampling begins: as the pipeline says, or else where the first timestep stands."""
    begin = getattr(call.scheduler, "begin_index", None)
    return exact_place(call.time, call.scheduler) if begin is None else begin


class Said(Signal):
    """Somebody names the index of each step, and is believed."""

    def __init__(self, first: int, place: int) -> None:
        self.first, self.place = first, place

    @staticmethod
    @abstractmethod
    def index(call: Call) -> int | None:
        """Return what is said, or None."""

    @classmethod
    def begin(cls, call: Call) -> Signal | None:
        """Return the signal where an index is named."""
        index = cls.index(call)
        return None if index is None else cls(index, first_place(call))

    def ahead(self, call: Call, progress: Progress) -> int | None:
        """Return by how much the index grew; it goes back in a new run, or a branch comes again at the same one."""
        index = self.index(call)
        if index is None or index < progress.index:
            return ANOTHER_RUN
        if index == progress.index and call.name in progress.branches.named_here:
            return ANOTHER_RUN
        return index - progress.index


class HostSignal(Said):
    """The host names the index of each step."""

    source = "host"

    @staticmethod
    def index(call: Call) -> int | None:
        """Return the index that is said, or None."""
        return call.host.index if call.host else None


class ContextSignal(Said):
    """The pipeline names the index of each step (Wan)."""

    source = "context"

    @staticmethod
    def index(call: Call) -> int | None:
        """Return the index that is said, or None."""
        return call.context.step_index if call.context else None


class CounterSignal(Signal):
    """How often the pipeline's scheduler has stepped. Right with repeated, whole and rounded timesteps."""

    source = "scheduler"

    def __init__(self, entered: int, position: int) -> None:
        self._entered = entered
        self.place = self._position = position

    @classmethod
    def begin(cls, call: Call) -> Signal | None:
        """Return the signal where the scheduler counts from here."""
        entered = first_place(call)
        position = _position(call, entered)
        if position is None:
            return None
        # One that counts, but from elsewhere, drives another run: what it says is not about this one.
        here = position == entered or place(call.time, call.scheduler, position) == position
        return cls(entered, position) if here else None

    def ahead(self, call: Call, progress: Progress) -> int | None:
        """Return how often the scheduler stepped; None if time moved without it.

        It goes back in a new run, or a branch comes again at the same time.
        """
        position = getattr(call.scheduler, "step_index", -1)
        if position is None:
            position = self._entered
        ahead, self._position = position - self._position, position
        if ahead:
            return int(ahead) if ahead > 0 else ANOTHER_RUN
        again = call.name in progress.branches.named_here
        if call.name is not None and not again:
            return 0
        if not progress.moved(call):
            return ANOTHER_RUN if again else 0
        return None  # time moves and the scheduler does not: a copy of it or another one drives this run


def counts(scheduler: object) -> bool:
    """Return whether a scheduler counts its steps."""
    return hasattr(scheduler, "step_index")


def _position(call: Call, entered: int) -> int | None:
    """How many steps the scheduler has made; None where it does not count."""
    if not counts(call.scheduler):
        return None
    return entered if call.scheduler.step_index is None else call.scheduler.step_index


class ChangeSignal(Signal):
    """Nobody counts (DDIM, PNDM, bare modules): the time or, where times are rounded, the latents move on."""

    source = "timestep"

    def __init__(self, place: int | None = None) -> None:
        self.place = place
        self._direction = 0
        self._first: FirstForward | None = None

    @classmethod
    def begin(cls, call: Call) -> Signal:
        """Return the signal; there always is one."""
        found = -1 if counts(call.scheduler) else place(call.time, call.scheduler)
        return cls(None if found < 0 else found)

    def ahead(self, call: Call, progress: Progress) -> int | None:
        """Return 1 where the time or, if it stands still, the latents moved.

        Time goes back in a new run, or all branches were here and one comes again.
        """
        moved = progress.moved(call)
        if moved * self._direction < 0 or (not moved and self._begins_again(call, progress)):
            return ANOTHER_RUN
        self._direction = moved or self._direction
        return int(bool(moved) or self._went_on(call, progress))

    def _begins_again(self, call: Call, progress: Progress) -> bool:
        """Whether a forward at the same time is the first one of another run."""
        if not progress.branches.is_complete(call) or progress.stands:
            return False
        last = progress.total is not None and progress.index >= progress.total - 1
        return call.name in progress.branches.named_here or (last and not progress.marked)

    def _went_on(self, call: Call, progress: Progress) -> bool:
        """Whether this is the next step though its time is that of the step before."""
        if progress.stands and (progress.branches.is_complete(call) or progress.branches.went_on(call)):
            return True
        return self._first is not None and self._first.is_followed_by(call)

    def note_first(self, call: Call, progress: Progress) -> None:
        """Take note of the first forward of a step, where the next one's time may be rounded to the same."""
        tells = progress.schedule is None and call.name is None and call.time.is_rounded
        self._first = FirstForward(call) if tells else None


SIGNALS: tuple[type[Signal], ...] = (HostSignal, ContextSignal, CounterSignal, ChangeSignal)
"""In order of trust; the last one always tells something."""
