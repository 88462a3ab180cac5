"""What was called otherwise before, and is still understood: in code with a `DeprecationWarning`, in files silently.

All of it goes in the release `GOES_IN`. Nothing else in bwcache knows a former name.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

GOES_IN = "0.2.0"

POLICIES: Mapping[str, str] = {"Compute": "NeverReuse", "Scheduled": "StepList"}

NAMES: Mapping[str, str] = {
    **POLICIES,
    "AlreadyAttached": "AlreadyAttachedError",
    "Block": "Place",
    "BlocksChanged": "BlocksChangedError",
    "Contender": "Method",
    "MissingExtra": "MissingExtraError",
    "MuchKept": "MuchKeptWarning",
    "NeverReused": "NeverReusedWarning",
    "NoBlocksFound": "NoBlocksFoundError",
    "NotProven": "NotProvenError",
    "OverBudget": "OverBudgetError",
    "Race": "Study",
    "RunStopped": "RunStoppedError",
    "SpecMismatch": "SpecMismatchError",
    "Standing": "Result",
    "Unit": "Video",
    "race": "run_study",
    "standings": "results",
}
"""Of classes and functions, in each module that exports the new name."""

FIELDS: Mapping[str, Mapping[str, str]] = {
    "BWCache": {"measure": "interval_unit", "token_sample": "sample"},
    "BlockSpec": {
        "aside": "cache_fill_flags",
        "decoded": "read_after",
        "home": "module_prefix",
        "zipped": "interleaved",
    },
    "Observation": {"foretold": "error", "measured": "last"},
    "Study": {"contenders": "methods", "units": "videos"},
}
"""Class -> its fields: as keyword arguments, attributes and settings."""

ADDED: Mapping[str, Mapping[str, Any]] = {"BWCache": {"retrigger": True, "compared": "outputs"}}
"""By class, fields that the release before did not have, and the value that means what it did."""
METHODS: Mapping[str, Mapping[str, str]] = {"Predictor": {"given": "adapted_to"}}
"""Class -> its methods, of which classes that derive from it may have their own."""

ARGUMENTS: Mapping[str, str] = {"group": "ranks"}
"""Of `attach` and `enable`; None there was the default of now."""

META: Mapping[str, str] = {"aside": "cache_fills"}
"""Of a trace."""

OPTIONS: Mapping[str, str] = {"--token-sample": "--sample"}
"""Of the command line."""

Class = TypeVar("Class")
Function = TypeVar("Function", bound=Callable[..., Any])


def exported(module: str, name: str) -> Any:
    """Return what a module exports under another name by now, and warn: for a module's `__getattr__`.

    Raises:
        AttributeError: it never had such a name.
    """
    found = getattr(sys.modules[module], NAMES[name], None) if name in NAMES else None
    if found is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    _warn(f"{module}.{name}", f"{module}.{NAMES[name]}", depth=4)
    return found


def takes_former_fields(kind: type[Class]) -> type[Class]:
    """Class decorator, above `dataclass`: former fields are taken as keyword arguments, and read as attributes."""
    made: Any = kind.__init__
    former = FIELDS[kind.__name__]

    @functools.wraps(made)
    def init(self: Any, *values: Any, **by_name: Any) -> None:
        made(self, *values, **(_renamed(self, by_name) if former.keys() & by_name.keys() else by_name))

    kind.__init__ = init  # type: ignore[method-assign]
    return reads_former_fields(kind)


def reads_former_fields(kind: type[Class]) -> type[Class]:
    """Class decorator, above `dataclass`: former fields and methods are read as attributes."""
    names = {**FIELDS.get(kind.__name__, {}), **METHODS.get(kind.__name__, {})}
    for old, new in names.items():
        setattr(kind, old, _FormerField(old, new))
    return kind


def takes_former_arguments(function: Function) -> Function:
    """Function decorator: former keyword arguments are taken."""

    @functools.wraps(function)
    def taking(*values: Any, **by_name: Any) -> Any:
        for old in ARGUMENTS.keys() & by_name.keys():
            new, value = ARGUMENTS[old], by_name.pop(old)
            if new in by_name:
                raise TypeError(f"{function.__name__} got {old} and {new}, which are one: leave {old} out")
            if value is not None:
                by_name[new] = value
            _warn(f"{function.__name__}({old}=)", f"{function.__name__}({new}=)", depth=3)
        return function(*values, **by_name)

    return cast(Function, taking)


def takes_former_methods(kind: type, base: str) -> None:
    """For `base.__init_subclass__`: a method under its former name is that of now, with a warning."""
    for old, new in METHODS[base].items():
        if old in vars(kind) and new not in vars(kind):
            setattr(kind, new, vars(kind)[old])
            _warn(f"{kind.__name__}.{old}", f"{kind.__name__}.{new}", depth=5)  # its class statement is beyond ABCMeta


def former_fields(kind: type) -> dict[str, str]:
    """Return former name -> name of the fields that a class, or one that it derives from, called otherwise."""
    fields = getattr(kind, "__dataclass_fields__", {})
    known = [pair for one in kind.__mro__ for pair in FIELDS.get(one.__name__, {}).items()]
    return {old: new for old, new in known if new in fields and old not in fields}


def current_field(kind: type, name: str) -> str:
    """Return what a class calls the field `name` by now: the same where it has such a field, or never had one."""
    return former_fields(kind).get(name, name)


def current_description(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's description, as `Policy.describe` makes it, with the names of now; also of those inside."""
    named = str(described.get("name"))
    name = POLICIES.get(named, named)
    fields = {old: new for old, new in FIELDS.get(name, {}).items() if new not in described}
    found = {fields.get(key, key): _current_value(value) for key, value in described.items()}
    return found | {"name": name} if named in POLICIES else found


def former_description(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's description as the release before wrote it: what results are kept under."""
    name = described["name"]
    fields = {new: old for old, new in FIELDS.get(name, {}).items()}
    added = ADDED.get(name, {})
    kept = {key: value for key, value in described.items() if key not in added or value != added[key]}
    found = {fields.get(key, key): value for key, value in kept.items()}
    return found | {"name": {new: old for old, new in POLICIES.items()}.get(name, name)}


def current_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trace says of its run, with the names of now."""
    found = {META.get(key, key): value for key, value in meta.items()}
    policy = found.get("policy")
    return found | {"policy": current_description(policy)} if isinstance(policy, Mapping) else found


def current_arguments(words: Iterable[str]) -> list[str]:
    """Return a command's arguments, with the options of now."""
    split = (word.partition("=") for word in words)
    return ["".join((OPTIONS.get(option, option), equals, value)) for option, equals, value in split]


class _FormerField:
    """An attribute under its former name. A class that derives from its owner may have a field of that name."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def __get__(self, instance: Any, kind: type) -> Any:
        if instance is None:
            raise AttributeError(f"type object {kind.__name__!r} has no attribute {self.old!r}")
        _warn(f"{kind.__name__}.{self.old}", f"{kind.__name__}.{self.new}", depth=3)
        return getattr(instance, self.new)


def _renamed(instance: Any, by_name: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments with the names of now.

    `dataclasses.replace` gives all fields, and beside them those that a person wants changed: then the former name is
    what counts.
    """
    kind = type(instance)
    replaces = all(field.name in by_name for field in dataclasses.fields(kind) if field.init)
    found = dict(by_name)
    for old, new in former_fields(kind).items():
        if old not in by_name:
            continue
        if new in by_name and not replaces:
            raise TypeError(f"{kind.__name__} got {old} and {new}, which are one: leave {old} out")
        found[new] = found.pop(old)
        _warn(f"{kind.__name__}({old}=)", f"{kind.__name__}({new}=)", depth=4)
    return found


def _current_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return current_description(value)
    return [_current_value(one) for one in value] if isinstance(value, list) else value


def _warn(old: str, new: str, depth: int) -> None:
    warnings.warn(
        f"{old} is called {new} now; its former name goes in bwcache {GOES_IN}", DeprecationWarning, stacklevel=depth
    )
