"""What policies check of their settings."""

from __future__ import annotations

from typing import Any

from bwcache.core.kinds import count, is_number
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.features import Predictor

LEAST_SHARE = 1e-9
"""Of entries; less is none of any tensor."""

number = is_number


def share(value: Any) -> bool:
    """Return whether it is a share of entries: a number in (0, 1], and large enough to be counted."""
    return number(value) and LEAST_SHARE <= value <= 1


def whole(value: object, least: int) -> bool:
    """Return whether it is a whole number of at least this, and one that counts something."""
    return count(least).holds(value)


def one_of(value: object, words: tuple[str, ...]) -> bool:
    """Return whether it is one of these words."""
    return isinstance(value, str) and value in words


def expect(fine: bool, name: str, value: object, expected: str, instead: str) -> None:
    """Raises `SettingError` where a setting is not as expected."""
    if not fine:
        raise SettingError(complaint(f"{name} {shown(value)}", expected, f"try {instead}"))


def expect_predictor(value: Any, instead: str = "bwcache.Last()") -> None:
    """Raises `SettingError` where it is none."""
    expect(isinstance(value, Predictor), "predictor", value, "a Predictor", instead)
