"""Values from words: what a person writes in a terminal, or what stands in a JSON file, as an annotation wants it.

`read` takes a text, `fit` a value that is there already. Both understand numbers, texts, truth values, None,
`Literal`, unions, tuples, lists and dictionaries; and dataclasses of a family (predictors, policies) by name: `linear`,
`taylor:2`, `taylor:order=2`, `Taylor(order=2)`.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bwcache.errors import SettingError, complaint
from bwcache.former_names import POLICIES, current_field

LONGEST = 60
"""Characters of a text that a complaint repeats."""

MANY = 8
"""Members of a family that are named without an example of each with a value."""

_NO = object()
_CONSTANTS = {"true": True, "false": False, "none": None}
_ANSWERS = {"yes": True, "no": False}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}


def read(text: str, kind: Any, what: str) -> Any:
    """Return the value that a text stands for.

    Args:
        text: "0.15", "3", "true", "none", "shared", "[1, 2]", "linear", "taylor:2"; "0+4+8" for a tuple.
        kind: an annotation; `Any` for whatever the text looks like.
        what: whose value it is, for the complaint.

    Raises:
        SettingError: it does not fit.
    """
    for value in _readings(text.strip()):
        fitted = _fit(value, kind)
        if fitted is not _NO:
            return fitted
    raise _refused(f"{what} {shown(text)}", expected(kind), "write one of these")


def fit(value: Any, kind: Any, what: str) -> Any:
    """Return a value as an annotation wants it: lists become tuples, words and dictionaries what they describe.

    Raises:
        SettingError: it does not fit.
    """
    fitted = _fit(value, kind)
    if fitted is _NO:
        raise _refused(f"{what} {shown(value)}", expected(kind), "give one of these")
    return fitted


def read_or_fit(value: Any, kind: Any, what: str) -> Any:
    """Return `read` of a text, `fit` of anything else."""
    return read(value, kind, what) if isinstance(value, str) else fit(value, kind, what)


def shown(value: Any, longest: int = LONGEST) -> str:
    """Return how a complaint repeats a value: as Python writes it, on one line, shortened."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an object whose repr fails is an odd value too
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[: longest - 4]}...{text[-1]}"


def split(text: str, at: str = ",") -> list[str]:
    """Return the parts of a text between separators that stand outside of brackets and quotes, stripped."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == at and depth <= 0:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts]


def called(text: str) -> tuple[str, tuple[str, ...], dict[str, str]] | None:
    """Return name, values in order and values by name of `name`, `name:2`, `name:a=1,b=2` or `Name(2, b=3)`.

    None where the text is no such thing.
    """
    found = re.fullmatch(r"\s*([A-Za-z_][\w.-]*)\s*(?:\((.*)\)|:(.*))?\s*", text, re.DOTALL)
    if found is None:
        return None
    name, inside = found[1], found[2] if found[2] is not None else found[3]
    if inside is None or (found[2] is not None and not inside.strip()):
        return name, (), {}
    ordered: list[str] = []
    by_name: dict[str, str] = {}
    for part in split(inside):
        key, equals, value = part.partition("=")
        if not part or (not equals and by_name):
            return None
        if equals and re.fullmatch(r"[A-Za-z_][\w-]*", key.strip()):
            by_name[key.strip().replace("-", "_")] = value.strip()
        else:
            ordered.append(part)
    return name, tuple(ordered), by_name


def plain_name(name: str) -> str:
    """Return a name as it is compared: FixedInterval, fixed-interval and fixed_interval are one."""
    return re.sub(r"[-_\s]", "", name).lower()


def family(kind: type) -> dict[str, type]:
    """Return the dataclasses that can be made of a class and of those that derive from it: class name -> class.

    Those with a false `in_words` are left out: nobody chooses them.
    """
    found: dict[str, type] = {}
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        if dataclasses.is_dataclass(one) and not inspect.isabstract(one) and getattr(one, "in_words", True):
            found.setdefault(one.__name__, one)
        waiting += type.__subclasses__(one)[::-1]
    return found


def field_types(kind: type) -> dict[str, Any]:
    """Return field -> annotation of a dataclass, of the fields that its constructor takes."""
    hints = hints_of(kind)
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(kind) if field.init}


def hints_of(thing: Any) -> dict[str, Any]:
    """Return the annotations of a class or a function; none where one of them cannot be looked up."""
    try:
        return get_type_hints(thing)
    except Exception:  # names that exist for type checkers alone
        return {}


def writable(kind: Any) -> bool:
    """Return whether any value of this kind can be written in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(writable(option) for option in inside if option is not type(None))
    if (origin or kind) in (*_LISTS, dict, collections.abc.Mapping):
        return all(writable(option) for option in inside if option is not Ellipsis)
    if kind is Any or origin is Literal or kind in _WORDS or isinstance(kind, TypeVar):
        return True
    return inspect.isclass(origin or kind) and bool(family(origin or kind))


def expected(kind: Any) -> str:
    """Return what a kind of value may be, in words."""
    return " or ".join(dict.fromkeys(_possible(kind)))


def _readings(text: str) -> Iterator[Any]:
    """What a text may stand for, the likeliest first."""
    for parse in (int, float):
        try:
            number = parse(text)
        except ValueError:
            continue
        if isinstance(number, int) or math.isfinite(number):
            yield number
            break
    else:
        literal = _literal(text)
        if literal is not _NO:
            yield literal
    if text.lower() in _CONSTANTS:
        yield _CONSTANTS[text.lower()]
    yield text
    parts = [_literal(part) for part in text.split("+")]
    if _NO not in parts:
        yield tuple(parts)
    if text.lower() in _ANSWERS:
        yield _ANSWERS[text.lower()]


def _literal(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NO
    return value if _is_plain(value) else _NO


def _is_plain(value: Any) -> bool:
    """Whether JSON has such a value."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _fit(value: Any, kind: Any) -> Any:
    """The value as this kind wants it, or `_NO`."""
    if kind is Any or isinstance(kind, TypeVar):
        return value
    if kind is None or kind is type(None):
        return None if value is None else _NO
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        fitted = (_fit(value, option) for option in get_args(kind))
        return next((one for one in fitted if one is not _NO), _NO)
    if origin is Literal:
        return next((one for one in get_args(kind) if type(one) is type(value) and one == value), _NO)
    if kind in (bool, int, float, str):
        return _fit_plain(value, kind)
    if (origin or kind) in _LISTS:
        return _fit_list(value, origin or kind, get_args(kind))
    if (origin or kind) in (dict, collections.abc.Mapping):
        return _fit_mapping(value, get_args(kind))
    return _fit_class(value, origin or kind)


def _fit_plain(value: Any, kind: type) -> Any:
    if kind in (bool, str):
        return value if isinstance(value, kind) else _NO
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _NO
    try:
        size = float(value)
    except OverflowError:
        return _NO
    if not math.isfinite(size):
        return _NO
    if kind is int:
        return int(value) if size.is_integer() else _NO
    return value


def _fit_list(value: Any, kind: Any, inside: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple, set, frozenset)):
        return _NO
    if kind is tuple and inside and Ellipsis not in inside:
        if len(inside) != len(value):
            return _NO
        fitted = [_fit(one, part) for one, part in zip(value, inside, strict=True)]
    else:
        fitted = [_fit(one, inside[0] if inside else Any) for one in value]
    if any(one is _NO for one in fitted):
        return _NO
    return kind(fitted) if kind in (tuple, set, frozenset) else fitted


def _fit_mapping(value: Any, inside: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        return _NO
    of_key, of_value = inside or (Any, Any)
    fitted = {_fit(key, of_key): _fit(one, of_value) for key, one in value.items()}
    return _NO if _NO in fitted or any(one is _NO for one in fitted.values()) else fitted


def _fit_class(value: Any, kind: Any) -> Any:
    if not inspect.isclass(kind):
        return _NO
    if isinstance(value, kind):
        return value
    members = _by_plain_name(family(kind))
    if isinstance(value, Mapping) and isinstance(name := value.get("name"), str):
        one = members.get(plain_name(name))
        settings = {key: inner for key, inner in value.items() if key != "name"}
        return _NO if one is None else _made(one, (), settings, _fit)
    words = called(value) if isinstance(value, str) else None
    one = members.get(plain_name(words[0])) if words else None
    return _NO if one is None or words is None else _made(one, words[1], words[2], _first_reading)


def _by_plain_name(classes: Mapping[str, type]) -> dict[str, type]:
    former = {old: classes[new] for old, new in POLICIES.items() if new in classes}
    return {plain_name(name): one for name, one in {**former, **classes}.items()}


def _first_reading(text: Any, kind: Any) -> Any:
    if not isinstance(text, str):
        return _fit(text, kind)
    fitted = (_fit(value, kind) for value in _readings(text))
    return next((one for one in fitted if one is not _NO), _NO)


def _made(kind: type, ordered: Sequence[Any], by_name: Mapping[str, Any], fitting: Callable[[Any, Any], Any]) -> Any:
    """An instance of a dataclass, or `_NO` where it has no such fields; raises what its constructor raises.

    A class may have `spelled_out`, which returns fields for what is short for several, and raises where one is missing.
    """
    fields = field_types(kind)
    if len(ordered) > len(fields):
        return _NO
    given = dict(zip(fields, ordered, strict=False)) | {current_field(kind, name): by_name[name] for name in by_name}
    spelled_out = getattr(kind, "spelled_out", None)
    given = spelled_out(given) if spelled_out else given
    if not set(given) <= set(fields):
        return _NO
    fitted = {name: fitting(value, fields[name]) for name, value in given.items()}
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.init and _has_no_default(field) and field.name not in fitted
    ]
    return _NO if missing or any(value is _NO for value in fitted.values()) else kind(**fitted)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _possible(kind: Any) -> Iterator[str]:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for option in get_args(kind):
            yield from _possible(option)
    elif origin is Literal:
        yield from map(str, get_args(kind))
    elif kind in _WORDS or kind is None:
        yield _WORDS[type(None) if kind is None else kind]
    elif (origin or kind) in _LISTS:
        inside = [option for option in get_args(kind) if option is not Ellipsis]
        numbers = bool(inside) and set(inside) <= {int, float}
        yield "numbers such as 0+4+8" if numbers else f"a list such as [{', '.join(map(expected, inside)) or '1, 2'}]"
    elif (origin or kind) in (dict, collections.abc.Mapping):
        of_value = get_args(kind)[1:]
        yield f"a dictionary, each value {expected(of_value[0])}" if of_value else "a dictionary such as {'name': 1}"
    elif inspect.isclass(origin or kind) and (members := family(origin or kind)):
        yield from (name.lower() for name in members)
        if len(members) <= MANY:
            yield from (f"{name.lower()}:{default}" for name, one in members.items() for default in _first_number(one))
    else:
        yield f"a {getattr(kind, '__name__', str(kind))}, which cannot be written in words"


def _first_number(kind: type) -> Iterator[str]:
    """A value of the first field, where that is a number: 2 stands for any."""
    if next(iter(field_types(kind).values()), None) in (int, float):
        yield "2"


def _refused(found: str, what: str, action: str) -> SettingError:
    return SettingError(complaint(found, what, action))
