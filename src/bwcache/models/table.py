"""The model table: one row per denoiser class, found by the class. The rows stand in `models/families`."""

from __future__ import annotations

from bwcache.models.families import ROWS
from bwcache.models.spec import BlockSpec

__all__ = ["ROWS", "row", "row_of", "supported"]

_BY_MODEL: dict[str, list[BlockSpec]] = {}
for _row in ROWS:
    _BY_MODEL.setdefault(_row.model, []).append(_row)


def row(model: str, module: str = "") -> BlockSpec | None:
    """Return the row of a denoiser class: by its name and the module that defines it, or by its name alone."""
    rows = _BY_MODEL.get(model, ())
    return next((row for row in rows if not module or module.startswith(row.module_prefix)), None)


def row_of(kind: type) -> BlockSpec | None:
    """Return the row of a class, or of the nearest of those that it derives from."""
    rows = (row(base.__name__, base.__module__) for base in kind.__mro__)
    return next((found for found in rows if found), None)


def supported() -> tuple[str, ...]:
    """Return the class names of the denoisers in the table."""
    return tuple(_BY_MODEL)
