"""How the text of an option becomes a value; what cannot be one is refused with what would be."""

from __future__ import annotations

import math
from pathlib import Path

import typer

from bwcache.core.amounts import in_bytes
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint


def whole_number(text: str | int) -> int:
    """Parse an integer."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(complaint(shown(text), "a whole number", "write it in digits")) from None


def real_number(text: str | float) -> float:
    """Parse a finite number."""
    try:
        value = float(text)
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(complaint(shown(text), "a number", "write it in digits, such as 4.5"))
    return value


def amount_of_memory(text: str | int) -> int:
    """Parse bytes, or a number with a unit."""
    try:
        return in_bytes(text)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from None


def path_of(text: str | Path) -> Path:
    """Parse a path: with the home folder of ``~``, and such as the system can follow."""
    name = shown(str(text))
    try:
        path = Path(text).expanduser()
        path.stat()
    except RuntimeError:
        found = f"{name}, a home that is not known"
        raise typer.BadParameter(complaint(found, "a path", "write it in full")) from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # what is done with it says so
    except (OSError, ValueError) as error:
        found = f"{name} ({getattr(error, 'strerror', None) or error})"
        raise typer.BadParameter(complaint(found, "a path that can be followed", "name another")) from None
    return path
