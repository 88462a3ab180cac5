"""How far a run is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwcache.engine.clock.branches import Branches
from bwcache.engine.clock.times import is_near

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call, Time
    from bwcache.engine.clock.schedule import Schedule

Where = tuple[float | None, float | None, float | None, float | None]


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
    """

    def __init__(self, index: int, time: Time, marked: bool) -> None:
        self.index = index
        self.total: int | None = None
        self.schedule: Schedule | None = None
        self.branches = Branches()
        self.marked = marked
        self.repeats = False
        self.time = time
        self.where: Where | None = None

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
            return time.value, None, self._noise(index), self._noise(index + 1)
        sigma = None if schedule.sigmas is None else schedule.sigmas[index]
        self.where = schedule.timesteps[index], sigma, self._noise(index), self._noise(index + 1)
        return self.where

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
