"""Ranks that are threads: whatever one of them exchanges with the others has to be the same thing for all, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._C._distributed_c10d import HashStore, Store

from bwcache.engine import lockstep, session
from bwcache.engine.ranks import Lockstep, Parts, Related


class ApartError(Exception):
    """What would be a hang: ranks that exchange different things."""


@dataclass(eq=False)
class Meeting:
    """Where so many threads exchange what they have; each of them has its number in `here.rank`."""

    count: int
    here: threading.local = field(default_factory=threading.local)
    store: Store = field(default_factory=HashStore)
    _said: list[Any] = field(init=False)
    _all: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self._said, self._all = [None] * self.count, threading.Barrier(self.count, timeout=60)

    def exchange(self, what: str, value: Any = None) -> list[Any]:
        """Return what each of them has.

        Raises:
            ApartError: on all alike, if it is not the same thing that they exchange.
        """
        self._said[self.here.rank] = (what, value)
        self._all.wait()
        said = list(self._said)
        self._all.wait()
        kinds = sorted({kind for kind, _ in said})
        if len(kinds) > 1:
            raise ApartError(f"ranks exchange {' and '.join(kinds)}: {[kind for kind, _ in said]}")
        return [one for _, one in said]

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """Return what each thread comes to: what it returns, or what it raises."""
        found: list[Any] = [None] * self.count

        def one(rank: int) -> None:
            self.here.rank = rank
            try:
                found[rank] = work(rank)
            except Exception as error:
                found[rank] = error
            if not isinstance(found[rank], (ApartError, threading.BrokenBarrierError)):
                try:
                    self.exchange("the end")
                except ApartError as error:
                    found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


class FakeParts(Parts):
    """Ranks with parts of one video, which meet somewhere else than in a process group."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__((), "threads")
        object.__setattr__(self, "meeting", meeting)

    @property
    def count(self) -> int:
        return self.meeting.count

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def store(self) -> Store:
        return self.meeting.store

    @property
    def rank(self) -> int:
        return int(self.meeting.here.rank)

    def _timeout(self) -> float:
        return float("inf")

    def add_up(self, vector: torch.Tensor) -> None:  # type: ignore[override]
        several = self.meeting.exchange(f"a vector of {len(vector)}", vector.clone())
        vector.copy_(torch.stack(several).sum(0))
        return None

    def any(self, here: bool) -> bool:
        return any(self.meeting.exchange("a flag", here))

    meeting: Meeting


@contextmanager
def spread(meeting: Meeting, relation: str, patch: Any) -> Iterator[None]:
    """Sessions that are attached and run by the threads of a meeting decide together: as "parts", or in "lockstep"."""
    parts = FakeParts(meeting)
    grid: Any = ("threads",)
    found = Related(parts=parts) if relation == "parts" else Related(lockstep=Lockstep(grid, "threads"))

    def largest(numbers: Sequence[int], groups: Any) -> list[int]:
        several = meeting.exchange(f"votes of {len(numbers)}", list(numbers))
        return [max(column) for column in zip(*several, strict=True)]

    with patch.context() as patched:
        patched.setattr(session, "related", lambda ranks, modules: found)
        patched.setattr(lockstep, "largest", largest)
        patched.setattr(lockstep, "count", lambda groups: meeting.count)
        yield
