"""The scheduler counts its own steps. Right with repeated, whole and rounded timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwcache.engine.clock.signal import ANOTHER_RUN, Signal, first_place
from bwcache.engine.clock.times import place

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call
    from bwcache.engine.clock.progress import Progress


class CounterSignal(Signal):
    """How often the pipeline's scheduler has stepped."""

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
