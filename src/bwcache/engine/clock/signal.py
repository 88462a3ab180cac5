"""What tells the steps of a run: one class for each signal, all of one kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from bwcache.engine.clock.times import exact_place

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call
    from bwcache.engine.clock.progress import Progress


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
    def restarts(self, call: Call, progress: Progress) -> bool:
        """Return whether a forward belongs to a new run."""

    @abstractmethod
    def ahead(self, call: Call, progress: Progress) -> int | None:
        """Return by how many steps a forward is ahead of the last one; None where the signal contradicts itself."""


class Said(Signal):
    """Somebody names the index of each step."""

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

    def restarts(self, call: Call, progress: Progress) -> bool:
        """Return whether the index goes back, or a branch comes again at the same one."""
        index = self.index(call)
        if index is None or index < progress.index:
            return True
        return index == progress.index and call.name in progress.branches.named_here

    def ahead(self, call: Call, progress: Progress) -> int | None:
        """Return by how much the index grew."""
        index = self.index(call)
        return None if index is None else index - progress.index


def first_place(call: Call) -> int:
    """Return where in a schedule sampling begins: as the pipeline says, or else where the first timestep stands."""
    begin = getattr(call.scheduler, "begin_index", None)
    return exact_place(call.time, call.scheduler) if begin is None else begin
