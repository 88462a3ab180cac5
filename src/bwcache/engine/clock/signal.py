"""What tells the steps of a run: one class for each signal, all of one kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from bwcache.engine.clock.times import exact_place

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call
    from bwcache.engine.clock.progress import Progress


ANOTHER_RUN = -1
"""In place of a number of steps: a forward belongs to a new run."""


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
