"""Denoiser and other classes of diffusers that have no row, and why."""

from __future__ import annotations

from bwcache.models.families import REFUSED

__all__ = ["REFUSED", "reason_of"]


def reason_of(kind: type) -> str | None:
    """Return why a class, or one that it derives from, has no row; None where nothing was decided."""
    names = (base.__name__ for base in kind.__mro__ if base.__module__.startswith("diffusers."))
    return next((REFUSED[name] for name in names if name in REFUSED), None)
