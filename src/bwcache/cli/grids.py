"""Grids in words: ``threshold=0.1,0.2`` and ``predictor=last,linear`` as values of a policy's fields."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from bwcache.core.words import field_types, read, shown, split
from bwcache.errors import SettingError, complaint
from bwcache.former_names import current_field

Grid = Mapping[str, tuple[Any, ...]]

DEFAULTS: dict[str, str] = {
    "threshold": "0.05,0.1,0.15,0.2,0.25,0.3",
    "interval": "2,3,4,5,6",
    "tolerance": "0.005,0.01,0.02,0.03,0.045,0.07,0.11",
    "predictor": "last,linear",
}
"""What is tried when no grid is given, of the fields that a policy has; the thresholds are the paper's."""


def read_grid(policy: type[Any], texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Field -> values, each once, in the order in which they were given.

    Args:
        policy: the class whose fields they are.
        texts: each "FIELD=V1,V2".

    Raises:
        SettingError: a field that the policy does not have, or a value that does not fit the field's type.
    """
    from bwcache.policies.known import nearest

    grid: dict[str, tuple[Any, ...]] = {}
    fields = field_types(policy)
    for text in texts:
        name, equals, values = text.partition("=")
        name = current_field(policy, name.strip().replace("-", "_"))
        if not equals or not values.strip():
            raise _refused(f"--grid {shown(text)}", "FIELD=V1,V2", "write such as threshold=0.1,0.2")
        if name not in fields:
            near = nearest(name, fields) or "name one"
            raise _refused(f"--grid field {shown(name)}", f"a field of {policy.__name__} ({', '.join(fields)})", near)
        if name in grid:
            raise _refused(f"--grid {name} twice", "each field once", "put all values into one")
        tried = [read(value, fields[name], f"--grid {name}") for value in split(values)]
        grid[name] = tuple(value for place, value in enumerate(tried) if value not in tried[:place])
    return grid


def default_grid(policy: type[Any], fixed: Iterable[str] = ()) -> dict[str, tuple[Any, ...]]:
    """`DEFAULTS` for the fields that the policy has and that are not fixed; predictors where replay is its own."""
    from bwcache.features import Last

    fields = field_types(policy)
    own = next((field.default_factory for field in dataclasses.fields(policy) if field.name == "predictor"), Last)
    settled = {*fixed} if own is Last else {*fixed, "predictor"}
    return read_grid(
        policy, [f"{name}={text}" for name, text in DEFAULTS.items() if name in fields and name not in settled]
    )


def combinations(grid: Grid) -> list[dict[str, Any]]:
    """Every choice of one value per field; the first field varies slowest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
