"""Amounts of memory: read from what a person writes, and written so that a person can read them."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint

MOST = 2**63 - 1
"""Bytes; no machine has more."""

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{unit}": base ** (i + 1) for i, letter in enumerate("KMGT") for unit, base in (("B", 1000), ("iB", 1024))
}


def in_bytes(amount: int | str) -> int:
    """Return the bytes of 1073741824, "1073741824", "1GiB" (1024³) or "1.5 GB" (1000³).

    Raises:
        SettingError: it is no such amount, nothing, or more than any machine has.
    """
    count = amount if isinstance(amount, int) and not isinstance(amount, bool) else 0
    if isinstance(amount, str) and (found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)", amount.strip())):
        number, unit = found.groups()
        size = {name.lower(): size for name, size in _UNITS.items()}.get(unit.lower())
        count = int(Fraction(number) * size) if size is not None and len(number) < len(str(MOST)) + 20 else 0
    if not 0 < count <= MOST:
        expected = "a whole number of bytes, or text such as '2GiB' (B to TiB)"
        raise SettingError(complaint(f"{shown(amount)} as an amount of memory", expected, _instead(amount)))
    return count


def _instead(amount: object) -> str:
    """What to write in place of it."""
    if isinstance(amount, float) and math.isfinite(amount) and 1 <= amount <= MOST:
        return f"write {int(amount)}"
    return "try '2GiB'"


def size(count: int) -> str:
    """Bytes in the unit that reads best."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if amount >= 100 or unit == "B" else f"{amount:.1f} {unit}"
