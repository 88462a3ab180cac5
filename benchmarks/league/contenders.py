"""Who takes part: every policy between guards, the other libraries' own implementations, fewer steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.lead import contenders as lead
from benchmarks.league.ladders import LADDERS, Ladder
from benchmarks.race.contender import Contender, Witnessed
from benchmarks.race.race import Lengths, Race
from bwcache.errors import AttachError, BWCacheError
from bwcache.measure.call import Request
from bwcache.policies import Guarded, Policy
from bwcache.study.methods import Method, Seen
from bwcache.study.peers import Guards

GUARDS: Mapping[int, tuple[Guards, ...]] = {30: (Guards(2, 1), Guards(6, 1)), 50: (Guards(2, 1), Guards(10, 1))}
"""By the steps of a run: a short and a long warm-up."""

LEVELS = (25.0, 30.0, 35.0, 40.0)
"""Mean PSNR in dB at which speeds are compared."""

MODELS = ("shapes", "image", "unet")
"""That take part."""

LIBRARIES: Mapping[str, str] = {
    **dict.fromkeys(("seacache", "taylorseer-lite", "magcache", "taylorseer", "first-block", "pab"), "diffusers"),
    "fastercache": "diffusers",
    **dict.fromkeys(("dbcache", "dbcache-taylorseer"), "cache-dit"),
}
"""Whose implementation it is, by the name that the page of ours has for it."""


@dataclass(frozen=True)
class Rung(Witnessed):
    """One setting of a ladder.

    Args:
        said: it, in a few words.
        between: its guards, in a few words.
    """

    said: str = ""
    between: str = ""

    @property
    def label(self) -> str:
        """Name, setting and guards."""
        return f"{self.name} ({self.said}{self.between})"


@dataclass(frozen=True)
class Unable(Method):
    """A method that cannot take part on this model.

    Args:
        name: of the method.
        why: in one line.
    """

    name: str
    why: str

    @property
    def family(self) -> str:
        """`name`."""
        return self.name

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}

    @contextmanager
    def at_work(self, pipe: Any) -> Iterator[Seen]:
        """Raise `AttachError` with the reason."""
        raise AttachError(self.why)
        yield Seen()


@dataclass(frozen=True)
class From(Method):
    """Another library's implementation, under a name that says so.

    Args:
        peer: it.
        library: whose it is.
    """

    peer: Method
    library: str

    @property
    def family(self) -> str:
        """The method's name and the library's."""
        return f"{self.peer.family} ({self.library})"

    @property
    def label(self) -> str:
        """With its settings."""
        return f"{self.peer.label}, {self.library}"

    def settings(self) -> dict[str, Any]:
        """Those of the peer."""
        return self.peer.settings()

    def rehearsal(self, few: Request) -> Request | None:
        """As the peer."""
        return self.peer.rehearsal(few)

    def at_work(self, pipe: Any) -> AbstractContextManager[Seen]:
        """As the peer."""
        return self.peer.at_work(pipe)


def native(ladder: Ladder, race: Race) -> list[Method]:
    """Return the settings of one ladder in a race, between each pair of guards; that it is unable, where it is.

    All of them have the witness of the middle one: what is kept of a method counts as long as that makes the same
    video.
    """
    try:
        rungs = ladder.rungs(race)
        made = [
            (said, between, lay(policy))
            for between, lay in (around(ladder, one) for one in race.guards[: None if ladder.guarded else 1])
            for said, policy in rungs.items()
        ]
        witness = race.witness(made[len(rungs) // 2][-1])
    except BWCacheError as error:
        return [Unable(ladder.family, str(error))]
    return [Rung(policy, (), ladder.family, "", witness, said, between) for said, between, policy in made]


def around(ladder: Ladder, guards: Guards) -> tuple[str, Callable[[Policy[Any]], Policy[Any]]]:
    """Return guards in words, and what lays them around a policy of a ladder."""
    if not ladder.guarded:
        return "", lambda policy: policy
    words = f", warm-up {guards.warmup}, tail {guards.tail}"
    return words, lambda policy: Guarded(policy, guards.warmup, guards.tail)


def peer(name: str, race: Race) -> list[Method]:
    """Return the settings of another library's implementation in a race."""
    return [From(one, LIBRARIES[name]) for one in lead.settings(name, race.terms)]


def shorter(name: str, race: Race) -> list[Method]:
    """Return runs of fewer steps."""
    return lead.settings(name, race.terms)


def but_for_guards(method: Method) -> str:
    """Return what a setting is without its guards."""
    if isinstance(method, Rung):
        return method.said
    settings = {name: value for name, value in method.settings().items() if name != "guards"}
    return json.dumps([method.family, settings], sort_keys=True)


NATIVE = {
    one.family: Contender("native", partial(native, one), may_fall_behind=True, likeness=but_for_guards)
    for one in LADDERS
}
BY_OTHERS = {
    f"{name} by {library}": Contender("library", partial(peer, name), may_fall_behind=True, likeness=but_for_guards)
    for name, library in LIBRARIES.items()
}
CONTENDERS: Mapping[str, Contender] = {
    **{name: Contender("fewer steps", partial(shorter, name)) for name in lead.SHORTER},
    **NATIVE,
    **BY_OTHERS,
}
"""By the name for --method."""

KINDS = {name: one.kind for name, one in CONTENDERS.items()}


@dataclass(frozen=True)
class Settings:
    """How the league is run.

    Attributes:
        guards: by the number of steps.
        lengths: how much is run.
    """

    guards: Mapping[int, tuple[Guards, ...]]
    lengths: Lengths


SETTINGS = Settings(
    GUARDS,
    Lengths(range(88, 90), range(104, 120), range(96, 98), ((1, 1.0, 0.03, 2.0), (2, 0.5, 0.01, 1.4)), LEVELS),
)
"""Two videos tell which settings are good and which methods are far behind, sixteen others how good these are."""

QUICK = Lengths(
    range(88, 89),
    range(104, 106),
    range(96, 97),
    ((1, 0.5, 0.0, 1.2),),
    levels=(30.0,),
    steps=12,
    guards=(Guards(2, 1),),
    computed=(3, 5),
    rungs=3,
)
"""Twelve steps, three settings of each, a video to choose on and two to tell: that all runs, not what it is worth."""
