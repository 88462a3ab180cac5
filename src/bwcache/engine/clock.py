"""Which run, step and branch a forward belongs to.

The best signal there is wins, in this order:

1. `context`: diffusers' cache context names the step index itself (Wan).
2. `scheduler`: the context names the branch at most; the pipeline's scheduler counts its own steps. Right with
   repeated, integer and rounded timesteps.
3. `timestep`: nobody counts; a step is a change of the timestep argument (DDIM, bare modules), or, where times are
   rounded, of the latents alone.

A signal that contradicts itself is dropped for a weaker one. The number of steps stays known as long as the forwards
come at the schedule's times; when it goes, policies compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

import torch

from bwcache.core import Step
from bwcache.engine.listed import Listed
from bwcache.engine.schedule import Loop, Schedule
from bwcache.engine.standstill import Given, rounds

NOTHING: Mapping[str, Any] = MappingProxyType({})
Source = Literal["context", "scheduler", "timestep"]


@dataclass(frozen=True)
class Context:
    """What a pipeline says around a forward: diffusers' cache context, of whatever version. None: not said."""

    name: str
    step_index: int | None = None
    num_inference_steps: int | None = None
    timestep: Any = None
    sigma: float | None = None


class StepClock:
    """Counts runs, steps and branches of the denoisers of one session.

    Args:
        scheduler: returns the pipeline's present scheduler, or None for a bare module.
        steps: number of steps where nobody announces it.
    """

    def __init__(self, scheduler: Callable[[], Any], steps: int | None = None) -> None:
        self._scheduler = scheduler
        self._steps = steps
        self.context: Context | None = None
        self.loop: Loop | None = None
        self.doubt: str | None = None
        self.run = -1
        self._running = False
        self._source: Source = "timestep"
        self._schedule: Schedule | None = None
        self._total: int | None = None
        self._index = 0
        self._begin = 0
        self._entered = 0
        self._position: int | None = None
        self._timesteps: Any = None
        self._listed = Listed(None)
        self._timestep = Time(None)
        self._direction = 0
        self._branches: list[str] = []
        self._widths: list[int] = []
        self._given: Given | None = None

    @property
    def source(self) -> Source:
        """Where the step index of this run comes from."""
        return self._source

    def end(self) -> None:
        """The run is over: the next forward begins another."""
        self._running = False

    def announce(self, steps: int | None) -> None:
        """A new run begins with the next forward, of `steps` steps where nobody else says so."""
        self.end()
        if steps is not None:
            self._steps = steps

    def tick(self, timestep: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = NOTHING) -> Step:
        """The step of a forward that begins now.

        Args:
            timestep: the denoiser's timestep argument: a number, or a tensor of any shape (its maximum counts).
            args, kwargs: all its arguments.
        """
        name = self.context.name if self.context else None
        coarse = name is None and rounds(timestep)
        timestep = Time(timestep, self._listed)
        if not self._running or self._restarts(name, timestep):
            self._start(timestep)
        else:
            self._follow(name, timestep, self._went_on(timestep, args, kwargs))
            self._outlive()
        if not self._branches:
            self._given = Given(args, kwargs) if coarse and self._counts_times else None
        branch = name or f"call{len(self._branches)}"
        self._branches.append(branch)
        self._timestep = timestep
        noises = self._noise(self._index), self._noise(self._index + 1)
        return Step(self.run, self._index, self._total, self._named_timestep(), self._sigma(), branch, None, *noises)

    def _restarts(self, name: str | None, timestep: Time) -> bool:
        """Whether this forward belongs to a new run: timesteps set anew, time gone back, or the same call twice."""
        if getattr(self._scheduler(), "timesteps", None) is not self._timesteps:
            return True
        repeated = name in self._branches
        if self._source == "context":
            index = self.context.step_index if self.context else None
            return index is None or index < self._index or (index == self._index and repeated)
        if self._source == "scheduler":
            position = self._scheduler_position()
            if position is None or self._position is None or position < self._position:
                return True
            return position == self._position and repeated and not self._moved(timestep)
        moved = self._moved(timestep)
        if moved:
            return moved * self._direction < 0
        last = self._total is not None and self._index >= self._total - 1
        return self._complete(name) and not self._stands(name) and (repeated or last)

    def _start(self, timestep: Time) -> None:
        self.run += 1
        self._running = True
        self._index, self._direction, self._branches, self._widths = 0, 0, [], []
        scheduler = self._scheduler()
        self._timesteps = getattr(scheduler, "timesteps", None)
        self._listed = Listed(self._timesteps)
        self._entered = _exact_place(timestep, scheduler)
        self._position = self._scheduler_position()
        announced = self.context.step_index if self.context else None
        if announced is not None:
            self._source, self._begin, self._index = "context", self._first_position(), announced
        elif self._counts_from_here(timestep):
            self._source, self._begin = "scheduler", self._position or 0
        else:
            # A scheduler that counts, but from elsewhere, drives another run: what it says is not about this one.
            self._source, self._begin = "timestep", _place(timestep, scheduler) if self._position is None else -1
        self._schedule = Schedule.read(scheduler, self._begin) if self._begin >= 0 else None
        if self._source == "context" and not self._fits_schedule(timestep):
            self._schedule = None
        self._total = self.context.num_inference_steps if self.context else None
        if self._total is None:
            self._total = self._length(scheduler)

    def _length(self, scheduler: Any) -> int | None:
        """How many steps the run has that begins now."""
        if self._schedule is None:
            return self._steps
        return self.loop.steps(scheduler, self._schedule) if self.loop else len(self._schedule.timesteps)

    @property
    def _counts_times(self) -> bool:
        """Whether nothing but the times tells the steps of this run."""
        return self._source == "timestep" and self._schedule is None

    def _went_on(self, timestep: Time, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether this is the next step though its time, rounded, is that of the step before."""
        given = self._given if self._counts_times and not self._moved(timestep) else None
        return given is not None and given.is_followed_by(args, kwargs)

    def _follow(self, name: str | None, timestep: Time, went_on: bool) -> None:
        """Moves on to the next step where the signal says so."""
        if self._source == "context":
            index = self.context.step_index if self.context else None
            if index is not None and index != self._index:
                self._index, self._branches = index, []
            return
        if self._source == "scheduler":
            position = self._scheduler_position()
            assert position is not None
            assert self._position is not None
            if position > self._position:
                self._index += position - self._position
                self._position, self._branches = position, []
                return
            if (name is not None and name not in self._branches) or not self._moved(timestep):
                return
            # Time moves and the scheduler does not: a copy of it or another one drives this run.
            self._source = "timestep"
        moved = self._moved(timestep)
        if moved or went_on or self._stands(name):
            self._direction = moved or self._direction
            self._note_width(name)
            self._index, self._branches = self._index + 1, []
            if self._schedule and not self._fits_schedule(timestep):
                self._schedule, self._total = None, None

    def _outlive(self) -> None:
        """A loop that goes on after the steps that were said to be all is as long as its schedule."""
        if self.loop and self._schedule and self._total is not None and self._index >= self._total:
            self._total = len(self._schedule.timesteps)

    def _stands(self, name: str | None) -> bool:
        """Whether the next step has the time of this one, as the schedule says, and all branches have been here."""
        times = self._schedule.timesteps[self._index : self._index + 2] if self._schedule else ()
        return len(times) == 2 and times[0] == times[1] and self._complete(name)

    def _complete(self, name: str | None) -> bool:
        """Whether a forward at the same time is one more than the branches of this step."""
        if name is not None:
            return name in self._branches
        return bool(self._widths) and len(self._branches) >= self._widths[-1]

    def _note_width(self, name: str | None) -> None:
        """Counts the forwards of a step that is over.

        Where nobody names them and nobody knows the schedule, a number that goes up and down again tells nothing: two
        steps whose times were rounded to the same look like one step with a branch more.
        """
        if not self._widths or len(self._branches) != self._widths[-1]:
            self._widths.append(len(self._branches))
        ups = [a < b for a, b in pairwise(self._widths)]
        if name is None and self._schedule is None and len(set(ups)) > 1:
            self._total = None

    def _fits_schedule(self, timestep: Time) -> bool:
        """Whether the schedule has this timestep at the present step."""
        value, schedule = timestep.value, self._schedule
        if value is None or schedule is None or self._index >= len(schedule.timesteps):
            return False
        return _close(value, schedule.timesteps[self._index])

    def _moved(self, timestep: Time) -> int:
        """Sign of the change of the timestep since the last forward; of its mean where the maximum stands still."""
        new, old = timestep.value, self._timestep.value
        if new is None or old is None:
            return 0
        if new == old and timestep.entries == self._timestep.entries > 1:
            new, old = timestep.mean, self._timestep.mean
        return (new > old) - (new < old)

    def _scheduler_position(self) -> int | None:
        """How many steps the scheduler has made; None where it does not count."""
        scheduler = self._scheduler()
        if not hasattr(scheduler, "step_index"):
            return None
        return scheduler.step_index if scheduler.step_index is not None else self._first_position()

    def _first_position(self) -> int:
        """Where sampling begins: as the pipeline says, or else where the first timestep stands in the schedule."""
        begin = getattr(self._scheduler(), "begin_index", None)
        return self._entered if begin is None else begin

    def _counts_from_here(self, timestep: Time) -> bool:
        """Whether the scheduler's count can be trusted: it stands at its beginning, or at this very timestep."""
        if self._position is None:
            return False
        if self._position == self._first_position():
            return True
        return _place(timestep, self._scheduler(), self._position) == self._position

    def _named_timestep(self) -> float | None:
        if self._schedule and self._index < len(self._schedule.timesteps):
            return self._schedule.timesteps[self._index]
        return self._timestep.value

    def _noise(self, index: int) -> float | None:
        """Share of noise before a step; as if all steps were even where the scheduler does not say it."""
        noises = self._schedule.noises if self._schedule else None
        if noises is not None and index < len(noises):
            return noises[index]
        return None if self._total is None else max(0.0, 1 - index / self._total)

    def _sigma(self) -> float | None:
        if self.context and self.context.sigma is not None:
            return float(self.context.sigma)
        sigmas = self._schedule.sigmas if self._schedule else None
        return sigmas[self._index] if sigmas and self._index < len(sigmas) else None


def scalar(timestep: Any) -> float | None:
    """A timestep argument as a number: the maximum where there is one per sample, frame or token. Reads the device."""
    if timestep is None:
        return None
    if isinstance(timestep, torch.Tensor):
        if timestep.numel() == 1:
            return float(timestep.item())
        return float(timestep.max().item()) if timestep.numel() else None
    return float(timestep)


class Time:
    """A timestep argument, read from the device at most once, and only if somebody asks."""

    def __init__(self, argument: Any, listed: Listed | None = None) -> None:
        self._argument, self._listed = argument, listed

    @cached_property
    def value(self) -> float | None:
        """The number; not read at all where the pipeline handed on one of the scheduler's."""
        known = None if self._listed is None else self._listed.value(self._argument)
        return scalar(self._argument) if known is None else known

    @property
    def entries(self) -> int:
        """How many numbers there are: samples, frames or tokens may have times of their own."""
        return self._argument.numel() if isinstance(self._argument, torch.Tensor) else 1

    @cached_property
    def mean(self) -> float:
        """Of all entries of a tensor."""
        return float(self._argument.double().mean().item())


_FORMS: tuple[Callable[[float], float], ...] = (
    lambda t: t,
    lambda t: 1000 - t,  # Mochi
    lambda t: 1000 * t,
    lambda t: 1000 * (1 - t),  # Lumina, Z-Image
)
"""How models name the scheduler's timestep, undone."""


def _close(value: float, listed: float, forms: Sequence[Callable[[float], float]] = _FORMS) -> bool:
    """Whether a model's timestep is the scheduler's, in one of the forms and as far as bfloat16 can tell."""
    return any(abs(listed - form(value)) <= abs(listed) / 256 + 1e-3 for form in forms)


def _place(timestep: Time, scheduler: Any, at: int | None = None) -> int:
    """Where in the scheduler's timesteps this one stands, the first of the nearest; -1 where nowhere.

    Args:
        at: only look at this position.
    """
    value, timesteps = timestep.value, getattr(scheduler, "timesteps", None)
    if value is None or timesteps is None or getattr(timesteps, "ndim", 1) != 1:
        return -1
    listed = {i: float(t) for i, t in enumerate(timesteps.tolist()) if at in (None, i)}
    plain = value > 1 and any(_close(value, t, _FORMS[:1]) for t in listed.values())  # 400 is not 600 backwards
    forms = _FORMS[:1] if plain else _FORMS
    near = [i for i, t in listed.items() if _close(value, t, forms)]
    return min(near, key=lambda i: min(abs(listed[i] - form(value)) for form in forms), default=-1)


def _exact_place(timestep: Time, scheduler: Any) -> int:
    """Where in the scheduler's timesteps this very one stands; 0 where it was rounded or is not there."""
    place = _place(timestep, scheduler)
    if place <= 0:
        return 0
    value, listed = timestep.value, float(scheduler.timesteps[place])
    assert value is not None
    return place if any(abs(listed - form(value)) <= 1e-2 for form in _FORMS) else 0
