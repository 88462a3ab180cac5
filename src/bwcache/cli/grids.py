"""Grids in words: ``threshold=0.1,0.2`` and ``predictor=last,linear`` as values of a policy's fields."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bwcache.errors import SettingError, complaint

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
    grid: dict[str, tuple[Any, ...]] = {}
    fields = field_types(policy)
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not values.strip():
            raise _refused(f"--grid {text!r}", "FIELD=V1,V2", "write such as threshold=0.1,0.2")
        if name not in fields:
            raise _refused(f"--grid field {name!r}", f"a field of {policy.__name__} ({', '.join(fields)})", "name one")
        if name in grid:
            raise _refused(f"--grid {name} twice", "each field once", "put all values into one")
        read = [parse(value.strip(), fields[name], f"--grid {name}") for value in values.split(",")]
        grid[name] = tuple(value for place, value in enumerate(read) if value not in read[:place])
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


def field_types(policy: type[Any]) -> dict[str, Any]:
    """Field -> type."""
    hints = get_type_hints(policy)
    return {field.name: hints[field.name] for field in dataclasses.fields(policy)}


def parse(text: str, kind: Any, what: str) -> Any:
    """One value of a field from a text.

    Args:
        text: "0.15", "3", "shared", "linear", "taylor:2", "0+4+8" for block indices, "none".
        kind: the field's type.
        what: whose value it is, for the complaint.

    Raises:
        SettingError: it does not fit.
    """
    for option in _options(kind):
        value = _as(text, option)
        if value is not _NO:
            return value
    raise _refused(f"{what} {text!r}", _expected(kind), "write one of these")


_NO = object()


def _options(kind: Any) -> Sequence[Any]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _as(text: str, kind: Any) -> Any:
    """The value of one plain type, or `_NO`."""
    if kind is type(None):
        return None if text.lower() == "none" else _NO
    if get_origin(kind) is Literal:
        return next((value for value in get_args(kind) if str(value) == text), _NO)
    if get_origin(kind) is tuple:
        return _blocks(text)
    if kind is bool:
        return {"true": True, "false": False, "yes": True, "no": False}.get(text.lower(), _NO)
    if kind in (int, float):
        return _number(text, kind)
    if kind is str:
        return text
    return _predictor(text) if inspect.isclass(kind) and kind in _predictor_types() else _NO


def _number(text: str, kind: type) -> Any:
    """Whole numbers stay whole, so that 3 is a number of steps and 0.1 a share."""
    try:
        value = float(text)
    except ValueError:
        return _NO
    if not math.isfinite(value):
        return _NO
    if kind is int:
        return int(value) if value.is_integer() else _NO
    return value


def _blocks(text: str) -> Any:
    try:
        return tuple(int(part) for part in text.split("+"))
    except ValueError:
        return _NO


def predictors() -> dict[str, type[Any]]:
    """Name in lower case -> class."""
    from bwcache.features import Damped, Last, Linear, Taylor

    return {kind.__name__.lower(): kind for kind in (Last, Linear, Taylor, Damped)}


def _predictor_types() -> tuple[type[Any], ...]:
    from bwcache.features import Predictor

    return (Predictor,)


def _predictor(text: str) -> Any:
    name, colon, order = text.lower().partition(":")
    kind = predictors().get(name)
    if kind is None or (colon and (name != "taylor" or not order.isdigit())):
        return _NO
    return kind(int(order)) if colon else kind()


def _expected(kind: Any) -> str:
    words: list[str] = []
    for option in _options(kind):
        if option is type(None):
            words.append("none")
        elif get_origin(option) is Literal:
            words += [str(value) for value in get_args(option)]
        elif get_origin(option) is tuple:
            words.append("block indices such as 0+4+8")
        elif option in _predictor_types():
            words += [*predictors(), "taylor:2"]
        else:
            words.append({int: "a whole number", float: "a number", bool: "true or false"}.get(option, "a text"))
    return " or ".join(words)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
