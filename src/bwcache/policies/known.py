"""The policies of this package by their names, for those who choose one in words."""

from __future__ import annotations

import inspect
from typing import Any

from bwcache.errors import SettingError, complaint
from bwcache.policies.base import Policy


def known() -> dict[str, type[Policy[Any]]]:
    """Class name -> policy, in alphabetical order."""
    package = __name__.rpartition(".")[0]
    found: dict[str, type[Policy[Any]]] = {}
    waiting: list[Any] = [Policy]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found |= {
            policy.__name__: policy
            for policy in below
            if policy.__module__.startswith(package + ".") and not inspect.isabstract(policy)
        }
    return dict(sorted(found.items()))


def named(name: str) -> type[Policy[Any]]:
    """The policy of a name, upper and lower case alike.

    Raises:
        SettingError: there is none.
    """
    found = next((policy for other, policy in known().items() if other.lower() == name.lower()), None)
    if found is None:
        raise SettingError(complaint(f"policy {name!r}", " or ".join(known()), "name one of them"))
    return found
