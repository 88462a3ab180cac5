"""Which policies a denoiser has the places for: what a refusal names in the place of the one that it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bwcache.errors import AttachError, SettingError
from bwcache.policies import Policy, known

Asked = Callable[[Policy[Any]], object]
"""Makes the plan of a policy, or raises."""


def fitting(asked: Asked) -> tuple[str, ...]:
    """Return the names of the policies that fit as they are by default: each is asked, none is listed.

    Left out are those that cannot be made without a table, a list or another policy, and those that never reuse.
    """
    found = []
    for name, kind in known().items():
        if any(_is_required(field) for field in dataclasses.fields(kind)):
            continue
        policy = kind()
        if not policy.may_reuse:
            continue
        try:
            asked(policy)
        except (AttachError, SettingError):
            continue
        found.append(name)
    return tuple(found)


def refused(error: AttachError | SettingError, asked: Asked) -> AttachError | SettingError:
    """Return a refusal of the same kind that ends with the policies that would fit."""
    names = fitting(asked)
    others = f"; these fit as they are: {', '.join(names)}" if names else "; no other policy fits as it is by default"
    return type(error)(f"{error}{others}")


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
