"""What ranks that decide together tell each other in one run, beside what they measured."""

from __future__ import annotations

import torch
from torch import Tensor

from bwcache.engine.alike import SIZE, checksums, differing
from bwcache.engine.clock.call import Call
from bwcache.engine.numbers import Numbers
from bwcache.engine.ranks import Parts

PATIENCE = 30.0
"""Seconds in which all ranks have to be told to forget; or a quarter of their group's time-out, if that is less."""


class Together:
    """One run of several ranks: whether they were given the same, and whether one of them is to stop or to forget.

    All of it travels in the one vector of a computed forward, and is heard by all before the same decision. Whether
    all of them are told to forget at once is agreed as they are told.

    Attributes:
        wants_stop: whether this rank was told to stop.
        stops: whether any was, as all know by now.
        wants_forget: whether this rank was told to forget what it keeps, and has not said so yet.
        waits_to_forget: whether it was, and not all of them have forgotten yet.
    """

    def __init__(self, ranks: Parts, setting: str) -> None:
        """`setting`: what they have to be set to alike, in words."""
        self._ranks, self._setting = ranks, setting
        self.wants_stop = False
        self.stops = False
        self.wants_forget = self.waits_to_forget = False
        self._run, self._forwards, self._were_apart = ranks.next_run(), 0, False
        self._sums: Tensor | None = None
        self._is_told = False
        self._said: list[tuple[Numbers, slice | None, slice | None]] = []

    def begin(self, call: Call) -> None:
        """Count a forward, and take note of what this rank was given at the first one."""
        self._forwards += 1
        if self._sums is None:
            self._sums = checksums(self._setting, call)

    def all_are_told(self) -> bool:
        """Return whether all of them ask this before the same forward; the same on all that ask.

        Waits for the others, but for a while: once in a run for nothing, and then no more.
        """
        if self._were_apart:
            return False
        told = self._ranks.all_are_told(f"{self._run}/{self._forwards}", PATIENCE)
        self._were_apart = not told
        return told

    def add(self, numbers: Numbers) -> None:
        """Add to the numbers of a forward what the others are to hear."""
        wishes = numbers.add(torch.tensor([float(self.wants_stop), float(self.wants_forget)]), 2)
        self.wants_forget = False
        sums = None if self._is_told else numbers.add(self._sums, SIZE)
        self._is_told = True
        self._said.append((numbers, wishes, sums))

    def hear(self) -> bool:
        """Take what was said by all; return whether what is kept is to be forgotten.

        Raises:
            RanksDifferError: on all of them alike, if they were not given the same.
        """
        said, self._said = self._said, []
        found: list[str] = []
        forget = False
        for numbers, wishes, sums in said:
            stop_here, forget_here = numbers.read(wishes) or (0.0, 0.0)
            self.stops, forget = self.stops or stop_here > 0, forget or forget_here > 0
            found += differing(numbers.read(sums) or [0.0] * SIZE, self._ranks.count) if sums is not None else []
        self.waits_to_forget = self.waits_to_forget and not forget
        self._ranks.expect_same(found)
        return forget
