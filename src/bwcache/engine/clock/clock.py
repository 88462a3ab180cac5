"""Which run, step and branch a forward belongs to.

Signals are asked in order of trust:

1. `host`: the program around the denoiser says the step itself.
2. `context`: diffusers' cache context names the step index (Wan).
3. `scheduler`: the scheduler of the pipeline that calls counts its own steps.
4. `timestep`: nobody counts; a step is a change of the timestep argument or, where times are rounded, of the latents.

A signal that contradicts itself is dropped for a weaker one. The number of steps stays known as long as the forwards
come at the schedule's times; when it goes, policies compute. Whatever could be taken for what it is not is doubted, and
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from bwcache.core import Step
from bwcache.engine.clock.call import Call
from bwcache.engine.clock.caller import Caller
from bwcache.engine.clock.host import Context, HostStep
from bwcache.engine.clock.level import level_of, said_by_host
from bwcache.engine.clock.progress import ANOTHER_RUN, SIGNALS, ChangeSignal, HostSignal, Progress, Said, Signal
from bwcache.engine.clock.schedule import Loop, Schedule
from bwcache.engine.clock.times import HostTimesteps, numbers
from bwcache.features.noise_level import NoiseLevel

_SAID = {field.name for field in fields(Context)}
"""What is heard of all that a version of diffusers says in its cache context."""


@contextmanager
def heard(here: Any, inner: Callable[..., Any], name: str, **said: Any) -> Iterator[None]:
    """Open a pipeline's cache context `inner`, known meanwhile to the clock that is `here`."""
    known = said if said.keys() <= _SAID else {key: said[key] for key in said if key in _SAID}
    with inner(name, **said):
        here.clock.context = Context(name, **known)
        try:
            yield
        finally:
            here.clock.context = None


class Clock:
    """Counts runs, steps and branches of the denoisers of one session, in one thread.

    Args:
        scheduler: returns the scheduler of the pipeline that the session is attached to, or None for a bare module.
            Where another pipeline calls the denoiser, that one's is followed.
        steps: number of steps where nobody announces it.
        agree: makes of what this rank sees of its own what all see that decide together.

    Attributes:
        host: what the host says of the forwards that come now, or None.
        context: what the pipeline says in its cache context, or None.
        loop: what the pipeline says of its loop, or None.
        run: ordinal of the run, -1 before the first.
        doubt: why the forward that ticked last must be computed, and nothing older of its branch be used; or None.
        caller: finds the pipeline that is calling.
        repeats: so many runs on end began since a name came again at the same time.
    """

    def __init__(
        self, scheduler: Callable[[], Any], steps: int | None = None, agree: Callable[[bool], bool] = bool
    ) -> None:
        self.host: HostStep | None = None
        self.context: Context | None = None
        self.loop: Loop | None = None
        self.run = -1
        self.doubt: str | None = None
        self.caller = Caller()
        self._attached = scheduler
        self._steps, self._agree = steps, agree
        self._marked = False
        self._marked_steps: int | None = None
        self._timesteps: Any = None
        self._listed = HostTimesteps(None)
        self._signal: Signal = ChangeSignal()
        self._progress: Progress | None = None
        self._jumps = 0
        self.repeats = 0

    def level(self, call: Call, step: Step) -> NoiseLevel | None:
        """Return the noise level of the forward that ticked last, and what is predicted there; None: nobody says it."""
        if call.host is not None and call.host.prediction is not None:
            return said_by_host(call.host.prediction, step.sigma)
        schedule = self._progress.schedule if self._progress else None
        return None if schedule is None else level_of(schedule.scheduler, call.stack.spec, step)

    @property
    def source(self) -> str:
        """The signal that tells the step index of this run."""
        return self._signal.source

    def end(self) -> None:
        """The run is over: the next forward begins another."""
        self._progress, self._marked, self._marked_steps = None, False, None
        self._signal = ChangeSignal()  # the old one may hold latents

    def announce(self, steps: int | None) -> None:
        """A new run begins with the next forward, of `steps` steps where nobody else says so, and lasts until `end`."""
        self.end()
        self._marked, self._marked_steps = True, steps

    def tick(self, call: Call) -> Step:
        """Return the step of a forward of a denoiser that begins now, and say what is in `doubt` about it."""
        self._ask(call)
        call.host, call.context = host, context = self.host, self.context
        if host is not None and host.branch is not None:
            call.name = "+".join(host.branches)
        elif context is not None:
            call.name = context.name
        call.time.listed, call.agree = self._listed, self._agree
        progress = self._progress
        ahead = ANOTHER_RUN if progress is None else self._ahead(call, progress)
        if progress is None or ahead == ANOTHER_RUN:
            self.caller.forget()
            self._ask(call)
            progress = self._progress = self._start(call)
        elif ahead:
            self._go_on(call, progress, ahead)
        signal = self._signal
        watched = progress.repeats or (isinstance(signal, ChangeSignal) and self._watches(signal, call, progress))
        branch, self.doubt = progress.branches.enter(call, watched)
        call.doubt = self.doubt
        if watched and self.doubt is None and progress.branches.step > 0:
            self._jumps = 0
        progress.time = call.time
        timestep, sigma, noise, next_noise = progress.where or progress.found(call.time)
        if context is not None and context.sigma is not None:
            sigma = float(context.sigma)
        if host is not None:
            sigma = sigma if host.sigma is None else float(host.sigma)
            noise, next_noise = (noise, next_noise) if host.noises == (None, None) else host.noises
        schedule = progress.noises if host is None or host.noises == (None, None) else host.schedule
        place = self.run, progress.index, progress.total
        return Step(*place, timestep, sigma, branch.name, None, noise, next_noise, schedule, progress.trained)

    def _ask(self, call: Call) -> None:
        """Ask who calls: whose scheduler it is."""
        pipeline = self.caller.pipeline(call.stack.module)
        call.scheduler = self._attached() if pipeline is None else pipeline.scheduler

    def _ahead(self, call: Call, progress: Progress) -> int:
        """By how many steps a forward is ahead of the last one, or `ANOTHER_RUN`."""
        signal, host = self._signal, call.host
        if getattr(call.scheduler, "timesteps", None) is not self._timesteps and self._are_set_anew(call.scheduler):
            return ANOTHER_RUN
        if host is not None and host.index is not None and not isinstance(signal, HostSignal):
            return ANOTHER_RUN
        ahead = signal.ahead(call, progress)
        if ahead is None:
            self._signal = weaker = ChangeSignal()
            return max(weaker.ahead(call, progress) or 0, 0)
        if isinstance(signal, ChangeSignal) and ahead != ANOTHER_RUN and self._is_of_another(call, progress):
            return ANOTHER_RUN
        return ahead

    def _are_set_anew(self, scheduler: Any) -> bool:
        """Whether a scheduler has other timesteps than before. Some make them each time that they are asked for."""
        made, again = getattr(scheduler, "timesteps", None), getattr(scheduler, "timesteps", None)
        return made is again or numbers(made) != numbers(self._timesteps)

    def _is_of_another(self, call: Call, progress: Progress) -> bool:
        """Whether nobody says anything of this run, and the latents are of something else."""
        if not self._is_bare(call, progress) or not progress.moved(call):
            return False
        if not progress.branches.jumped(call, ahead=True):
            return False
        # Twice in a row it is how this sampler works (fresh noise in every step): then it is doubted, step by step.
        self._jumps += 1
        return self._jumps == 1

    def _start(self, call: Call) -> Progress:
        before, self.run = self._progress, self.run + 1
        again = before is not None and call.name in before.branches.named_here and not before.moved(call)
        self.repeats = self.repeats + 1 if again else 0
        self._timesteps = getattr(call.scheduler, "timesteps", None)
        self._listed = HostTimesteps(self._timesteps)
        call.begin(self._listed)
        self._signal = next(found for kind in SIGNALS if (found := kind.begin(call)) is not None)
        progress = Progress(self._signal.first, call.time, self._marked, call.stack.spec.counts_up)
        if self._signal.place is not None:
            progress.schedule = Schedule.read(call.scheduler, self._signal.place)
        if isinstance(self._signal, Said) and not progress.fits_schedule(call.time):
            progress.schedule = None
        if progress.schedule is not None:
            progress.trained = progress.schedule.trained
        progress.total = self._total(call, progress.schedule)
        progress.repeats = again
        return progress

    def _total(self, call: Call, schedule: Schedule | None) -> int | None:
        """How many steps the run has that begins with this forward."""
        said = (call.host.steps if call.host else None, call.context.num_inference_steps if call.context else None)
        for total in said:
            if total is not None:
                return total
        if schedule is None:
            return self._steps if self._marked_steps is None else self._marked_steps
        loop = self.loop
        if loop is None or loop.timesteps is not call.scheduler.timesteps:
            bar = self.caller.bar(call.stack.module)  # of a pipeline that the session was not attached to
            loop = self.loop if bar is None else Loop.shown(*bar)
            self.loop = loop
        return loop.steps(call.scheduler, schedule) if loop else len(schedule.timesteps)

    def _go_on(self, call: Call, progress: Progress, ahead: int) -> None:
        """Goes on to a later step."""
        progress.go(ahead)
        if isinstance(self._signal, ChangeSignal) and progress.schedule and not progress.fits_schedule(call.time):
            progress.schedule, progress.total = None, None
        if self.loop and progress.schedule and progress.total is not None and progress.index >= progress.total:
            progress.total = len(progress.schedule.timesteps)  # the loop goes on after what was said to be all

    def _watches(self, signal: ChangeSignal, call: Call, progress: Progress) -> bool:
        """Whether the latents are looked at: nobody but they can tell that this is something else."""
        if not progress.branches.here:
            signal.note_first(call, progress)
        return self._is_bare(call, progress) or (progress.stands and progress.branches.step == 0)

    def _is_bare(self, call: Call, progress: Progress) -> bool:
        """Whether nobody but the arguments tells anything of this run."""
        bare = isinstance(self._signal, ChangeSignal) and call.scheduler is None
        return bare and not progress.marked
