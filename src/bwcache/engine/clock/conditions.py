"""What a forward is conditioned on: by that, and not by their order, branches are told apart where nobody names them.

Two forwards have the same condition if their tensors lie in the same place and were not written into since, which is
told without a look at the device. Only where they lie elsewhere are their numbers compared.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bwcache.engine.clock.call import PLAIN, Condition, shape

_PLACES = 4
"""In how many places one condition is remembered."""

_CONDITIONS = 16
"""How many conditions are remembered; a prompt that changes in every step would pile up."""


class Known:
    """A condition that was seen.

    Its tensors are held on to, so that nothing else can come to lie in their place; they are copied where it was seen
    that a caller writes into them.
    """

    def __init__(self, condition: Condition, copied: bool) -> None:
        self.places: deque[list[Any]] = deque([condition.place], maxlen=_PLACES)
        self._held: deque[Sequence[Any]] = deque([condition.values], maxlen=_PLACES)
        copied = copied or not condition.is_traced
        self._values = [value.clone() if copied and _plain(value) else value for value in condition.values]
        self._versions = [_version(value) for value in self._values]

    def equals(self, condition: Condition) -> bool:
        """Return whether the numbers are the same; if so, remember the place. Reads the device."""
        if len(self._values) != len(condition.values):
            return False
        pairs = list(zip(self._values, condition.values, strict=True))
        if any(shape(mine) != shape(other) for mine, other in pairs):
            return False
        if [_version(value) for value in self._values] != self._versions:
            return False  # overwritten: what it was is gone
        if not all(_equal(mine, other) for mine, other in pairs):
            return False
        if condition.place not in self.places:
            self.places.append(condition.place)
            self._held.append(condition.values)
        return True

    def is_overwritten_by(self, condition: Condition) -> bool:
        """Return whether this condition lies where mine did, written over it."""
        return any(
            len(place) == len(condition.place)
            and place != condition.place
            and any(_rewritten(mine, other) for mine, other in zip(place, condition.place, strict=True))
            for place in self.places
        )


class Conditions:
    """The conditions of one run: the last ones of those that were numbered."""

    def __init__(self) -> None:
        self._numbered: OrderedDict[int, Known] = OrderedDict()
        self._next = 0
        self._last: Known | None = None
        self._copied = False

    def number(self, condition: Condition, trusting: bool = True) -> int:
        """Return the number of a condition, a new one if it was not seen before. May read the device.

        Args:
            trusting: whether a place that torch does not watch is believed to hold what it held before.
        """
        found: int | None = None
        if condition.is_traced or trusting:
            for i, known in self._numbered.items():
                if condition.place in known.places:
                    return i
        if found is None:
            found = next((i for i, known in self._numbered.items() if known.equals(condition)), None)
        if found is None:
            found, self._next = self._next, self._next + 1
            self._numbered[found] = self.add(condition)
            if len(self._numbered) > _CONDITIONS:
                self._numbered.popitem(last=False)
        self._numbered.move_to_end(found)
        return found

    def add(self, condition: Condition) -> Known:
        """Return a condition as it is known from now on; copied if callers write into their tensors."""
        seen = [*self._numbered.values(), *([self._last] if self._last else [])]
        self._copied = self._copied or any(known.is_overwritten_by(condition) for known in seen)
        self._last = Known(condition, self._copied)
        return self._last


def _plain(value: Any) -> bool:
    return type(value) in PLAIN and not value.is_meta


def _version(value: Any) -> int | None:
    return None if not isinstance(value, Tensor) or value.is_inference() else value._version


def _rewritten(mine: Any, other: Any) -> bool:
    both = isinstance(mine, tuple) and isinstance(other, tuple) and len(mine) == len(other) == 5
    return both and mine != other and (mine[0], *mine[2:]) == (other[0], *other[2:])


def _equal(mine: Any, other: Any) -> bool:
    """Whether two values of one shape are the same; those of tensors that are not torch's own are not looked at."""
    if not isinstance(mine, Tensor) or mine is other:
        return True
    return _plain(mine) and bool(torch.equal(mine, other))
