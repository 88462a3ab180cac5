"""What values may be that come from outside: from a file, or from a person."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bwcache.core.words import shown

LARGEST = 2**63
"""Whole numbers below it are times, sizes and counts; others are none."""


@dataclass(frozen=True)
class Kind:
    """What a value may be, in words and as a test that raises nothing, whatever the value is."""

    name: str
    holds: Callable[[Any], bool]


def is_whole(value: object) -> bool:
    """Whether it is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold, and no truth value."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023


def between(low: float, high: float = LARGEST) -> Kind:
    """Return the kind of a finite number in this range, both ends included."""
    name = f"a number, at least {low:g}" if high == LARGEST else f"a number {low:g}..{high:g}"
    return Kind(name, lambda value: is_number(value) and low <= value <= high)


def count(least: int = 0, most: int = LARGEST) -> Kind:
    """Return the kind of a whole number in this range, both ends included."""
    name = f"a whole number, at least {least}" if most == LARGEST else f"a whole number {least}..{most}"
    return Kind(name, lambda value: is_whole(value) and least <= value <= most)


def maybe(kind: Kind) -> Kind:
    """Return the kind of a value of this kind, or None."""
    return Kind(f"{kind.name}, or null", lambda value: value is None or kind.holds(value))


def each(kind: Kind, least: int = 0) -> Kind:
    """Return the kind of a list of at least so many values of this kind."""
    name = f"a list, each of it {kind.name}" if least == 0 else f"a list of at least {least}, each of it {kind.name}"
    return Kind(name, lambda value: isinstance(value, list) and len(value) >= least and all(map(kind.holds, value)))


def table(kind: Kind) -> Kind:
    """Return the kind of an object whose values are of this kind."""
    return Kind(
        f"an object, each value {kind.name}",
        lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())),
    )


def below(kind: Kind, limit: float) -> Kind:
    """Return the kind of a number of this kind that is less than a limit."""
    return Kind(f"{kind.name}, below {limit:g}", lambda value: kind.holds(value) and value < limit)


NUMBER = Kind("a finite number", is_number)
POSITIVE = Kind("a number above 0", lambda value: is_number(value) and value > 0)
WHOLE = count()
SHARE = between(0, 1)
TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))


def fault(
    content: Any, expected: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, where: str = ""
) -> str | None:
    """Return what is wrong with an object read from a file, or None.

    Args:
        content: what was read.
        expected: fields that must be there.
        optional: fields that may be.
        where: the object's own name.
    """
    if not isinstance(content, dict):
        return f"{where or 'content'} {shown(content)}, which is not an object"
    inside = f"{where}." if where else ""
    missing = next((name for name in expected if name not in content), None)
    if missing is not None:
        return f"no {inside}{missing}"
    for name, kind in {**expected, **(optional or {})}.items():
        if name in content and not kind.holds(content[name]):
            return f"{inside}{name} {shown(content[name])}, which is not {kind.name}"
    return None


def check(
    content: Any, expected: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, where: str = ""
) -> None:
    """Raise `ValueError` where `fault` finds something, or a field that is in neither list."""
    wrong = fault(content, expected, optional, where)
    if wrong is not None:
        raise ValueError(wrong)
    unknown = sorted(set(content) - set(expected) - set(optional or {}))
    if unknown:
        raise ValueError(f"unknown fields {shown(unknown)}")
