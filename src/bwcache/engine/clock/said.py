"""Somebody names the index of each step: the host, or diffusers' cache context."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from bwcache.engine.clock.signal import ANOTHER_RUN, Signal, first_place

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call
    from bwcache.engine.clock.progress import Progress


class Said(Signal):
    """What is said is believed."""

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
