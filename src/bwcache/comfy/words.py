"""What a person chose at a node, read into a policy: a grade, or a method of the catalogue and its fields."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from bwcache.errors import SettingError, complaint
from bwcache.policies import Policy
from bwcache.policies.grades import GRADES, graded
from bwcache.policies.known import known, made, named

DEFAULT = "balanced"
WITHOUT = ("Guarded", "PerDenoiser", "Tuned")
"""Around another policy, or written by `bwcache tune`: not to be typed into a field."""


def grades() -> list[str]:
    """Return the grades, the closest first."""
    return list(GRADES)


def methods() -> list[str]:
    """Return the methods of the catalogue, by name."""
    return [name for name in known() if name not in WITHOUT]


def of_grade(word: str) -> Policy[Any]:
    """Return the policy of a grade.

    Raises:
        SettingError: there is no such grade.
    """
    return graded(word).policy


def of_method(name: str, settings: str) -> Policy[Any]:
    """Return a method with the fields that are set, one "field = value" a line; an empty line or a "#" says nothing.

    Raises:
        SettingError: no such method or field, a value that cannot be, or a line that is none.
    """
    values: dict[str, str] = {}
    for number, text in enumerate(settings.splitlines(), 1):
        text = text.partition("#")[0].strip()
        field, equals, value = (each.strip() for each in text.partition("="))
        if not text:
            continue
        if not equals or not field or not value or field in values:
            again = "once" if field in values else "as field = value"
            raise SettingError(complaint(f"line {number}: {text!r}", f"each field {again}", "such as threshold = 0.2"))
        values[field] = value
    return made(named(name), values)


def defaults(name: str) -> str:
    """Return the fields of a method with their values, as `of_method` reads them."""
    lines = []
    for field in fields(known()[name]):
        value: Any = field.default
        if field.default_factory is not MISSING:
            value = field.default_factory()
        if field.init:
            lines.append(f"{field.name} = {'…' if value is MISSING else value}")
    return "\n".join(lines)
