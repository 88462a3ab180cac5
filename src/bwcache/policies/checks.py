"""What policies check of their settings."""

from __future__ import annotations

import math
from typing import Any

from bwcache.errors import SettingError, complaint
from bwcache.features import Predictor


def number(value: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def expect(fine: bool, name: str, value: object, expected: str, instead: str) -> None:
    """Raises `SettingError` where a setting is not as expected."""
    if not fine:
        raise SettingError(complaint(f"{name} {value!r}", expected, f"try {instead}"))


def expect_predictor(value: Any, instead: str = "bwcache.Last()") -> None:
    """Raises `SettingError` where it is none."""
    expect(isinstance(value, Predictor), "predictor", value, "a Predictor", instead)
