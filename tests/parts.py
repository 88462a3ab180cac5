"""Rows whose blocks have parts, for tests that need them whatever the table says."""

from dataclasses import replace

from bwcache.models import BlockSpec
from bwcache.models.spec import Part
from bwcache.models.table import row_of


def with_parts(model: type, **parts: str | Part) -> BlockSpec:
    """The row of a class, with these parts in each of its lists."""
    row = row_of(model)
    return replace(row, lists=tuple(replace(some, parts=parts) for some in row.lists))
