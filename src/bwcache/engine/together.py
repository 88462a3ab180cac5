"""What ranks that decide together tell each other in one run, beside what they measured."""

from __future__ import annotations

import torch
from torch import Tensor

from bwcache.engine.alike import SIZE, checksums, differing
from bwcache.engine.clock.call import Call
from bwcache.engine.numbers import Numbers
from bwcache.engine.ranks import Parts


class Together:
    """One run of several ranks: whether they were given the same, and whether one of them is to stop.

    Both travel in the one vector of a computed forward, and are heard by all before the same decision.

    Attributes:
        wants_stop: whether this rank was told to stop.
        stops: whether any was, as all know by now.
    """

    def __init__(self, ranks: Parts, setting: str) -> None:
        """`setting`: what they have to be set to alike, in words."""
        self._ranks, self._setting = ranks, setting
        self.wants_stop = False
        self.stops = False
        self._sums: Tensor | None = None
        self._is_told = False
        self._said: list[tuple[Numbers, slice | None, slice | None]] = []

    def begin(self, call: Call) -> None:
        """Take note of what this rank was given, at the first forward."""
        if self._sums is None:
            self._sums = checksums(self._setting, call)

    def add(self, numbers: Numbers) -> None:
        """Add to the numbers of a forward what the others are to hear."""
        stop = numbers.add(torch.tensor([float(self.wants_stop)]), 1)
        sums = None if self._is_told else numbers.add(self._sums, SIZE)
        self._is_told = True
        self._said.append((numbers, stop, sums))

    def hear(self) -> None:
        """Take what was said by all.

        Raises:
            RanksDifferError: on all of them alike, if they were not given the same.
        """
        said, self._said = self._said, []
        found: list[str] = []
        for numbers, stop, sums in said:
            self.stops = self.stops or any(numbers.read(stop) or ())
            found += differing(numbers.read(sums) or [0.0] * SIZE, self._ranks.count) if sums is not None else []
        self._ranks.expect_same(found)
