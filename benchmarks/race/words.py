"""Speeds in words."""

from __future__ import annotations

from benchmarks.race.figures import Speed


def times(one: Speed) -> str:
    """A speed or a factor, with what bounds it."""
    return "–" if one.value is None else f"{one.bound}{one.value:.2f}x"


def between(one: Speed) -> str:
    """The interval behind a speed, if it is known."""
    return f" ({one.between[0]:.2f}–{one.between[1]:.2f})" if one.between else ""
