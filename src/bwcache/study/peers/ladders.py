"""The ladders of a bench: for every method its own settings, from careful to bold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bwcache.errors import SettingError, complaint
from bwcache.features import Last, Linear, Predictor
from bwcache.policies import Adaptive, BWCache, FixedInterval
from bwcache.study.methods import Method, Seen, UnderPolicy
from bwcache.study.peers.dbcache import DBCache, DBCacheTaylorSeer
from bwcache.study.peers.faster import FasterCache
from bwcache.study.peers.first_block import FirstBlockCache
from bwcache.study.peers.magcache import MagCache
from bwcache.study.peers.peer import Guards
from bwcache.study.peers.pyramid import PyramidAttentionBroadcast
from bwcache.study.peers.seacache import SeaCache
from bwcache.study.peers.taylorseer import TaylorSeer, TaylorSeerLite
from bwcache.study.solvers import compute_range, fewer_steps

SHARES = (0.2, 0.27, 0.35, 0.45, 0.6, 0.75, 0.9)
"""Numbers of steps without a cache, as shares of the full run."""

BWCACHE = ((0.05, 0.1), (0.1, 0.1), (0.15, 0.1), (0.2, 0.1), (0.25, 0.1), (0.25, 0.2), (0.35, 0.2))
"""Threshold and interval: the paper's three modes, and what lies on both sides of them."""


TOLERANCES = (0.005, 0.01, 0.02, 0.03, 0.045, 0.07, 0.11)
"""Of Adaptive."""


@dataclass(frozen=True)
class Terms:
    """What all methods of a bench have in common.

    Attributes:
        steps: of the full run.
        guards: steps that are always computed, where a method can be told so.
        scheduler: the pipeline's own.
        ratios: of MagCache, calibrated on this model; none where that failed.
        uncalibrated: why it failed.
    """

    steps: int
    guards: Guards
    scheduler: Any
    ratios: tuple[float, ...] = ()
    uncalibrated: str = ""


@dataclass(frozen=True)
class Called(UnderPolicy):
    """A policy under another name than its class, so that two of its kinds are two methods.

    Args:
        name: of the method.
        remark: what a person should know of how it was set.
    """

    name: str = ""
    remark: str = ""

    @property
    def family(self) -> str:
        """`name`."""
        return self.name

    @contextmanager
    def at_work(self, pipe: Any) -> Iterator[Seen]:
        """As its base, with the remark."""
        with super().at_work(pipe) as seen:
            yield seen
        if self.remark:
            seen.notes = (self.remark, *seen.notes)


def ladders(wanted: Sequence[str], terms: Sequence[Terms], quick: bool = False) -> tuple[Method, ...]:
    """The chosen methods with all their settings, under each of the terms.

    Args:
        wanted: names out of `METHODS`.
        terms: that differ in their guards; methods that do not depend on these are there once.
        quick: two settings of each method instead of all: a careful one, and a bold one under the last terms.
    """
    found: dict[str, Method] = {}
    for name in wanted:
        ladders = [METHODS[name](one) for one in terms]
        for family in dict.fromkeys(one.family for one in ladders[0]):
            own = [[one for one in ladder if one.family == family] for ladder in ladders]
            taken = list(itertools.chain(*own))
            if quick and len(own[0]) > 2:
                taken = [own[0][len(own[0]) // 3], own[-1][-2]]
            found |= {one.label: one for one in taken}
    return tuple(found.values())


def chosen(text: str | None) -> tuple[str, ...]:
    """The methods that a text names, with commas between; all of them for None.

    Raises:
        SettingError: there is no such method.
    """
    if text is None:
        return tuple(METHODS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise SettingError(
                complaint(f"method {name!r}", f"some of {', '.join(METHODS)}", "name them with commas between")
            )
    return names


Field = Callable[[Terms], list[Method]]


def _bwcache(name: str, predictor: Predictor) -> Field:
    remark = "its own tail guard, half of the steps before the first reuse"
    policies = [BWCache(threshold, interval, predictor=predictor) for threshold, interval in BWCACHE]
    return lambda terms: [Called(policy, ("threshold", "reuse_interval"), name, remark) for policy in policies]


def _adaptive(terms: Terms) -> list[Method]:
    warmup, remark = terms.guards.warmup / terms.steps, "no tail guard of its own: the last steps cost what they do"
    return [Called(Adaptive(one, warmup), ("tolerance", "warmup"), "Adaptive", remark) for one in TOLERANCES]


def _fixed(name: str, predictor: Predictor) -> Field:
    def field(terms: Terms) -> list[Method]:
        warmup, tail = terms.guards.warmup, terms.guards.tail
        shown = ("interval", "warmup") if tail == Guards().tail else ("interval", "warmup", "tail")
        return [Called(FixedInterval(n, warmup, tail, predictor), shown, name) for n in (2, 3, 4, 5, 6, 8)]

    return field


def _fewer_steps(multistep: bool) -> Field:
    def field(terms: Terms) -> list[Method]:
        all_of_them = fewer_steps(compute_range(SHARES, terms.steps), terms.scheduler)
        return [one for one in reversed(all_of_them) if (one.solver is not None) == multistep]

    return field


def _ladder(make: Callable[..., Method], rungs: Sequence[tuple[Any, ...]]) -> Field:
    return lambda terms: [make(terms.steps, terms.guards, *rung) for rung in rungs]


def _magcache(terms: Terms) -> list[Method]:
    rungs = ((0.01, 1), (0.02, 1), (0.04, 2), (0.06, 2), (0.06, 3), (0.12, 4), (0.24, 6), (0.5, 10))
    return [MagCache(terms.steps, terms.guards, *rung, terms.ratios, terms.uncalibrated) for rung in rungs]


_INTERVALS = ((2, 1), (3, 2), (3, 1), (4, 1), (5, 2), (5, 1), (7, 1))
_DB_THRESHOLDS = ((0.04,), (0.08,), (0.12,), (0.16,), (0.24,), (0.35,))

METHODS: Mapping[str, Field] = {
    "bwcache": _bwcache("BWCache as published", Last()),
    "bwcache-linear": _bwcache("BWCache, linear", Linear()),
    "adaptive": _adaptive,
    "fixed": _fixed("fixed interval", Last()),
    "fixed-linear": _fixed("fixed interval, linear", Linear()),
    "fewer-steps": _fewer_steps(multistep=False),
    "multistep": _fewer_steps(multistep=True),
    "first-block": _ladder(FirstBlockCache, ((0.03,), (0.05,), (0.08,), (0.12,), (0.2,), (0.3,))),
    "magcache": _magcache,
    "taylorseer": _ladder(TaylorSeer, _INTERVALS),
    "taylorseer-lite": _ladder(TaylorSeerLite, _INTERVALS),
    "seacache": _ladder(SeaCache, ((0.1, 1), (0.15, 2), (0.25, 2), (0.35, 3), (0.5, 4), (0.8, 6))),
    "pab": _ladder(PyramidAttentionBroadcast, ((2, 2), (2, 4), (2, 6), (3, 6), (4, 8), (6, 12))),
    "fastercache": _ladder(FasterCache, ((2,), (3,), (4,), (6,), (8,))),
    "dbcache": _ladder(DBCache, _DB_THRESHOLDS),
    "dbcache-taylorseer": _ladder(DBCacheTaylorSeer, _DB_THRESHOLDS),
}
"""Name for --methods -> its settings, from careful to bold."""
