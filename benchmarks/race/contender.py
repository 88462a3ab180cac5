"""Who takes part in a race: a ladder of settings, and what it runs whatever came out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bwcache.study.methods import Method
from bwcache.study.peers.ladders import Called

if TYPE_CHECKING:
    from benchmarks.race.race import Race

Ladder = Callable[["Race"], Sequence[Method]]


def nothing(methods: Sequence[Method]) -> Sequence[Method]:
    """None of them."""
    return ()


def label(method: Method) -> str:
    """Its label."""
    return method.label


@dataclass(frozen=True)
class Contender:
    """One that takes part.

    Attributes:
        kind: in a few words what its families are, such as "ours", "peer" or "fewer steps".
        ladder: all of its settings.
        always: of all of its settings those that run on the many videos whatever came out on the few.
        may_fall_behind: whether it does not run on the many videos where it was far behind others of its like.
        likeness: what settings have in common that differ in their guards alone: only the first of each runs in the
            first round of the coarse stage, and where it is good the others do in the next one.
    """

    kind: str
    ladder: Ladder
    always: Callable[[Sequence[Method]], Sequence[Method]] = nothing
    may_fall_behind: bool = False
    likeness: Callable[[Method], str] = label


@dataclass(frozen=True)
class Plain(Called):
    """A policy whose label says all of its settings in a few words."""

    @property
    def label(self) -> str:
        """Name and settings, those of a policy inside too."""
        return f"{self.name} ({', '.join(words(self.policy.describe()))})"


@dataclass(frozen=True)
class Witnessed(Plain):
    """A policy whose runs count as long as it makes the same video of one caption as when they were made.

    So what is kept outlives changes of the code that change nothing, and no others.

    Args:
        witness: of the video, from `race.Race.witness`.
    """

    witness: str = ""

    @property
    def former(self) -> None:
        """Nothing that was run before is taken for it."""

    def settings(self) -> dict[str, Any]:
        """With the witness."""
        return {**super().settings(), "witness": self.witness}


def words(described: Mapping[str, Any]) -> list[str]:
    """Return the settings of a policy as words, without its name."""
    found = []
    for name, value in described.items():
        if isinstance(value, Mapping):
            found += words(value)
        elif name != "name":
            found.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return found


def once(methods: Iterable[Method]) -> list[Method]:
    """Return the methods without those that another one has the settings of."""
    return list({(one.family, json.dumps(one.settings(), sort_keys=True)): one for one in methods}.values())
