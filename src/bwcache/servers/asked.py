"""What a request asks for: the same words in every server. The network imports and opens nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bwcache.core.words import shown
from bwcache.engine.memory import Memory
from bwcache.engine.session import policy_of
from bwcache.errors import SettingError, complaint
from bwcache.policies import Policy
from bwcache.policies.grades import GRADES
from bwcache.policies.known import known, policy

KEY = "bwcache"
"""Under which a request says what it wants."""

OFF = ("off", "none", "")
"""Words for computing everything."""

FIELDS = ("policy", "memory", "policies")
LIKE_A_FILE = re.compile(r"[/\\]|\.[^\W\d]")


@dataclass(frozen=True)
class Asked:
    """How a request is to be sampled.

    Attributes:
        word: what was said, for the log.
        policy: when to compute and when to reuse; a path: of a file that the server's owner named.
        memory: "device" or "offload".
    """

    word: str
    policy: Policy[Any] | str
    memory: str = "device"


class Settings:
    """What a server was started with.

    Args:
        said: a grade, "off", the path of a file, a policy's description, or a mapping of these fields: `policy` (any of
            these: of requests that say nothing), `memory` ("device" or "offload"), `policies` (words of the server's
            own that requests may say, each a policy or the path of a file). None: off.

    Raises:
        SettingError: it is none of these.
    """

    def __init__(self, said: Any = None) -> None:
        fields = dict(said) if isinstance(said, Mapping) and "name" not in said else {"policy": said}
        wrong = [name for name in fields if name not in FIELDS]
        if wrong:
            found = f"{shown(wrong[0])} in the settings of {KEY}"
            raise SettingError(complaint(found, " or ".join(FIELDS), "write a policy as {'policy': {'name': …}}"))
        self.memory = str(fields.get("memory") or "device")
        Memory.of(self.memory, None)
        own = fields.get("policies") or {}
        if not isinstance(own, Mapping):
            raise SettingError(complaint(f"policies {shown(own)}", "a mapping of words to policies", "leave it out"))
        self._own = {str(word): _of_owner(value) for word, value in own.items()}
        self.usual = self._named(fields.get("policy"), _of_owner)

    def of(self, said: Any) -> Asked | None:
        """Return what a request asks for; None: that everything is computed.

        Args:
            said: by the request: a grade, "off", a word of this server's, or a policy's description; None: nothing.

        Raises:
            SettingError: it is none of these.
        """
        return self.usual if said is None else self._named(said, self._of_network)

    def _named(self, said: Any, read: Any) -> Asked | None:
        if said is None or said is False or (isinstance(said, str) and said.strip().lower() in OFF):
            return None
        if isinstance(said, str) and said.strip().lower() in GRADES and said not in self._own:
            said = said.strip().lower()
        return Asked(said if isinstance(said, str) else shown(said), read(said), self.memory)

    def _of_network(self, said: Any) -> Policy[Any] | str:
        if isinstance(said, str) and said in self._own:
            return self._own[said]
        if isinstance(said, str):
            words = [*GRADES, *self._own, OFF[0]]
            if said not in GRADES:
                raise SettingError(complaint(f"{KEY} {shown(said)}", " or ".join(words), "say one of these"))
        elif isinstance(said, Mapping):
            _expect_harmless(said)
            return policy(said)
        else:
            raise SettingError(complaint(f"{KEY} {shown(said)}", "a word, or a policy's description", "say near"))
        return policy_of(said)


def _of_owner(said: Any) -> Policy[Any] | str:
    """The policy that the server's owner means; of a file its path, which is read where the model is at hand."""
    if isinstance(said, Mapping):
        return policy(said)
    if isinstance(said, str) and said.lower().endswith(".json"):
        policy(said)  # it can be read
        return said
    return policy_of(said)


def _expect_harmless(said: Any) -> None:
    """Raise unless a description names nothing but policies of this package: no module, no file.

    Raises:
        SettingError: it does.
    """
    values = list(said.values()) if isinstance(said, Mapping) else list(said)
    if isinstance(said, Mapping) and "name" in said and not (isinstance(said["name"], str) and said["name"] in known()):
        found = f"policy {shown(said['name'])} in a request"
        raise SettingError(complaint(found, " or ".join(known()), "name one of these"))
    for value in values:
        if isinstance(value, (Mapping, list, tuple)):
            _expect_harmless(value)
        elif isinstance(value, str) and LIKE_A_FILE.search(value):
            found = f"{shown(value)} in a request, which may be a file"
            raise SettingError(complaint(found, "words and numbers", "let the server's owner name it in `policies`"))
