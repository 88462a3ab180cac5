"""The policies by their names, for those who choose one in words: on the command line, or from what a trace says."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bwcache.core import words
from bwcache.core.files import named_without_suffix
from bwcache.errors import SettingError, complaint
from bwcache.former_names import POLICIES, current_field
from bwcache.policies.base import Policy
from bwcache.policies.policy_file import SUFFIX, names_file
from bwcache.policies.published import names_published, settings_for


def known() -> dict[str, type[Policy[Any]]]:
    """Return class name -> policy of all that this package exports, in alphabetical order."""
    package = importlib.import_module(__name__.rpartition(".")[0])
    exported = {name: getattr(package, name) for name in package.__all__}
    return dict(sorted((name, thing) for name, thing in exported.items() if _is_policy(thing)))


def named(name: str) -> type[Policy[Any]]:
    """Return the policy of a name.

    Args:
        name: of a policy of this package, such as FixedInterval, fixed-interval or fixedinterval; of another one that
            is defined in what has been imported; or `module:Class`, which is imported.

    Raises:
        SettingError: there is none, or more than one.
    """
    module, colon, inner = name.partition(":")
    if colon:
        return _imported(module, inner)
    wanted = words.plain_name(name)
    former = {words.plain_name(old): new for old, new in POLICIES.items()}
    found = {other: policy for other, policy in known().items() if words.plain_name(other) == wanted}
    found = found or {
        f"{policy.__module__}:{other}": policy
        for other, policy in _defined()
        if words.plain_name(other) == wanted and not policy.__module__.startswith("bwcache.")
    }
    if not found and wanted in former:
        return known()[former[wanted]]
    if len(found) > 1:
        raise _refused(
            f"policy {words.shown(name)}, of which there are several", " or ".join(found), "name one as module:Class"
        )
    if not found:
        near = difflib.get_close_matches(wanted, {words.plain_name(other): other for other in known()}, 1)
        right = next((other for other in known() if near and words.plain_name(other) == near[0]), None)
        file = named_without_suffix(name, SUFFIX)
        action = f"{file} is there: name it so" if file else f"did you mean {right}?" if right else "name one of them"
        raise _refused(f"policy {words.shown(name)}", " or ".join(known()), action)
    return next(iter(found.values()))


def policy(described: Mapping[str, Any] | str | Path) -> Policy[Any]:
    """Return the policy that a description means: the inverse of `Policy.describe`, also after a way through JSON.

    Args:
        described: `name`, and the fields that are not as by default; a predictor as its words ("taylor:2" or
            "Taylor(order=2)"), a policy inside as its own description, a table also by the path of its file. Or the
            path of a file that `bwcache tune` or `bwcache calibrate` wrote, which is then held against no model:
            `bwcache.attach` does that.

    Raises:
        SettingError: no policy of this name, no such field, a field that must be given, a value that cannot be, or a
            file that cannot be read.
    """
    from bwcache.policies.calibrated_file import read_policy_file

    if names_file(described):
        return read_policy_file(described).policy
    if not isinstance(described, Mapping) or not all(isinstance(name, str) for name in described):
        found = f"{words.shown(described)}, which describes no policy"
        raise _refused(found, "a dictionary of a policy's name and fields", _described_so(described))
    if not isinstance(described.get("name"), str):
        found = f"{words.shown(dict(described))} without the name of a policy"
        raise _refused(found, f"'name': one of {' or '.join(known())}", "say which policy has these fields")
    kind = named(described["name"])
    return made(kind, {name: value for name, value in described.items() if name != "name"})


def _plainly(name: str) -> str:
    """A name as it is, or as Python writes it where that would be no short line."""
    return name if name.isprintable() and len(name) <= 2 * words.LONGEST else words.shown(name)


def _described_so(thing: Any) -> str:
    """What to do with a thing that is no description."""
    if isinstance(thing, Policy):
        return "it is a policy already: attach it as it is"
    if inspect.isclass(thing) and issubclass(thing, Policy):
        return f"make one of it: {thing.__name__}(…)"
    name = thing if isinstance(thing, str) and thing.isidentifier() else "BWCache"
    return f"write {{'name': {words.shown(name)}}}, or what a policy's describe() returned"


def made(kind: type[Policy[Any]], settings: Mapping[str, Any], base: Policy[Any] | None = None) -> Policy[Any]:
    """Return a policy with these settings, over those of `base` if there is one.

    Args:
        kind: the policy's class.
        settings: field -> value, or the words for it.
        base: of the same class.

    Raises:
        SettingError: as `policy`.
    """
    values = values_of(kind, settings)
    if base is not None:
        return dataclasses.replace(base, **values)
    _expect_all(kind, values)
    return kind(**values)


def _expect_all(kind: type[Policy[Any]], said: Mapping[str, Any]) -> None:
    """Refuse settings that leave out a field without a default."""
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in said
    ]
    if missing:
        file = named_without_suffix(kind.__name__.lower(), SUFFIX)
        raise _refused(
            f"policy {kind.__name__}, of which {' and '.join(missing)} must be said",
            f"a value for {' and '.join(missing)}",
            f"{file} is there: name it so" if file else _how_to_say(kind, missing[0]),
        )


def values_of(kind: type[Policy[Any]], settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a policy's fields from words, or from what JSON has; of a table also from its file.

    Args:
        kind: the policy's class.
        settings: field -> value; fields may have former names. `table` is the path of a file with its table, and
            `published` a checkpoint, of which all is taken that is not said otherwise.
        prefix: what complaints say before a field's name, such as "--set ".

    Raises:
        SettingError: as `value_of`, the file holds no such table, or nothing is published for the checkpoint.
    """
    found, others = _without_shorts(kind, settings)
    for said, value in others.items():
        found[current_field(kind, said)] = value_of(kind, said, value, f"{prefix}{said}")
    return found


def spelled_out(kind: type[Policy[Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a policy inside of another one: `table` and `published` as the fields that they stand for.

    Raises:
        SettingError: a field is missing, the file holds no such table, or nothing is published for the checkpoint.
    """
    plain = {name: value.strip("'\"") if isinstance(value, str) else value for name, value in settings.items()}
    found, others = _without_shorts(kind, plain)
    others = {name: settings[name] for name in others}
    _expect_all(kind, found | others)
    return found | others


def _without_shorts(kind: type[Policy[Any]], settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that `table` and `published` stand for, the table's first; and all other settings, as they were."""
    from bwcache.policies.table_file import names_table, table_fields

    published: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for said, value in settings.items():
        field = current_field(kind, said)
        if names_table(kind, field, value):
            tables |= table_fields(kind, value)[0]
        elif names_published(kind, field):
            published = settings_for(kind, value)
        else:
            others[said] = value
    return published | tables, others


def shorts(kind: type[Policy[Any]]) -> tuple[str, ...]:
    """Return what stands for several fields of a policy at once: `table` and `published`, if it has such."""
    from bwcache.policies.table_file import names_table

    there = {"table": names_table(kind, "table", ""), "published": names_published(kind, "published")}
    return tuple(name for name, has in there.items() if has)


def value_of(kind: type[Policy[Any]], field: str, value: Any, what: str | None = None) -> Any:
    """Return the value of a policy's field from words, or from what JSON has.

    Args:
        kind: the policy's class.
        field: its name, also a former one.
        value: a text, or a value.
        what: how the complaint calls it; the field's name where that is not given.

    Raises:
        SettingError: there is no such field, or the value does not fit its type.
    """
    fields = words.field_types(kind)
    if current_field(kind, field) not in fields:
        found = f"{_plainly(what or field)} with policy {kind.__name__}"
        raise _refused(found, f"its fields ({', '.join(fields)})", nearest(field, fields) or "leave it out")
    return words.read_or_fit(value, fields[current_field(kind, field)], what or field)


def nearest(name: str, possible: Any) -> str | None:
    """Return "did you mean …?" with the names that look most like this one; None where none does."""
    close = difflib.get_close_matches(name, list(possible), 2)
    return f"did you mean {' or '.join(close)}?" if close else None


def _defined() -> list[tuple[str, type[Policy[Any]]]]:
    found: list[tuple[str, type[Policy[Any]]]] = []
    waiting: list[Any] = [Policy]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found += [(one.__name__, one) for one in below if _is_policy(one)]
    return found


def _imported(module: str, name: str) -> type[Policy[Any]]:
    try:
        found: type[Policy[Any]] = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        found_ = f"policy '{module}:{name}' that cannot be imported ({reason})"
        raise _refused(found_, "module:Class of a policy of yours", "check the spelling and PYTHONPATH") from error
    if not _is_policy(found):
        raise _refused(f"'{module}:{name}', which is no policy", "a class that derives from bwcache.Policy", "name one")
    return found


def _is_policy(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Policy) and not inspect.isabstract(thing)


def _how_to_say(kind: type[Policy[Any]], field: str) -> str:
    """What to do where a field is missing that has no default."""
    table = kind.entry.table if kind.entry else None
    if table is not None and field in table.fields:
        return f"make it: bwcache calibrate {kind.__name__} --model …, and name its file: table=FILE"
    return f"say it, such as {field}={_example(kind, field)}"


def _example(kind: type[Policy[Any]], field: str) -> str:
    text = words.expected(words.field_types(kind)[field])
    return "0+1+5" if "0+4+8" in text else "…"


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
