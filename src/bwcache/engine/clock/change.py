"""Nobody counts: a step is a change of the timestep argument or, where times are rounded, of the latents alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwcache.engine.clock.counter import counts
from bwcache.engine.clock.rounded_times import FirstForward
from bwcache.engine.clock.signal import ANOTHER_RUN, Signal
from bwcache.engine.clock.times import place

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call
    from bwcache.engine.clock.progress import Progress


class ChangeSignal(Signal):
    """The timestep argument (DDIM and PNDM, bare modules)."""

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
