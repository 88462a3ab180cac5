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
from torch.nn import Parameter

_PLACES = 4
"""In how many places one condition is remembered."""

_PLAIN = (Tensor, Parameter)

_CONDITIONS = 16
"""How many conditions are remembered; a prompt that changes in every step would pile up."""


class Condition:
    """The condition of one forward.

    Attributes:
        values: tensors, numbers and words, in order.
        place: where all that lies, and how often it was written into.
        is_traced: whether torch counts what is written into it. Not so in inference mode.
    """

    __slots__ = ("is_traced", "place", "values")

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values
        self.is_traced = True
        place: list[Any] = []
        for value in values:
            if value is None:
                place.append(None)
            elif type(value) in _PLAIN and not value.is_meta:
                traced = not value.is_inference()
                self.is_traced = self.is_traced and traced
                version = value._version if traced else None
                place.append((value.data_ptr(), version, value.shape, value.stride(), value.dtype))
            else:
                place.append(_shape(value))
        self.place = place


class Known:
    """A condition that was seen, and the places where it lies.

    Its tensors are held on to, so that nothing else can come to lie in their place; they are copied where it was seen
    that a caller writes into them.
    """

    def __init__(self, condition: Condition, copied: bool) -> None:
        self._places: deque[list[Any]] = deque([condition.place], maxlen=_PLACES)
        self._held: deque[Sequence[Any]] = deque([condition.values], maxlen=_PLACES)
        copied = copied or not condition.is_traced
        self._values = [value.clone() if copied and _plain(value) else value for value in condition.values]
        self._versions = [_version(value) for value in self._values]

    def lies_at(self, condition: Condition) -> bool:
        """Return whether it is known to lie where this one does."""
        return condition.place in self._places

    def equals(self, condition: Condition) -> bool:
        """Return whether the numbers are the same; if so, remember the place. Reads the device."""
        if len(self._values) != len(condition.values):
            return False
        pairs = list(zip(self._values, condition.values, strict=True))
        if any(_shape(mine) != _shape(other) for mine, other in pairs):
            return False
        if [_version(value) for value in self._values] != self._versions:
            return False  # overwritten: what it was is gone
        if not all(_equal(mine, other) for mine, other in pairs):
            return False
        self._places.append(condition.place)
        self._held.append(condition.values)
        return True

    def is_overwritten_by(self, condition: Condition) -> bool:
        """Return whether this condition lies where mine did, written over it."""
        return any(
            len(place) == len(condition.place)
            and place != condition.place
            and any(_rewritten(mine, other) for mine, other in zip(place, condition.place, strict=True))
            for place in self._places
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
                if known.lies_at(condition):
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
    return type(value) in _PLAIN and not value.is_meta


def _version(value: Any) -> int | None:
    return None if not isinstance(value, Tensor) or value.is_inference() else value._version


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (type(value), value.shape, value.dtype, value.device)
    return value if isinstance(value, (bool, int, float, str)) else type(value)


def _rewritten(mine: Any, other: Any) -> bool:
    both = isinstance(mine, tuple) and isinstance(other, tuple) and len(mine) == len(other) == 5
    return both and mine != other and (mine[0], *mine[2:]) == (other[0], *other[2:])


def _equal(mine: Any, other: Any) -> bool:
    """Whether two values of one shape are the same; nothing is said of tensors that are not torch's own."""
    return not _plain(mine) or bool(torch.equal(mine, other))
