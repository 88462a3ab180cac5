"""Who takes part: our policies, the peers of `bwcache bench` and the native ones, fewer steps; each with its ladder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
from tqdm import tqdm

from benchmarks.lead.plans import COMPUTED, MADE_OF, plans_for
from benchmarks.race.contender import Contender, Plain, Witnessed, once
from benchmarks.race.race import Race
from bwcache.features import Last, Linear, Predictor
from bwcache.measure.schedulers import replaced
from bwcache.policies import (
    Adaptive,
    BWCache,
    EasyCache,
    FixedInterval,
    Foresight,
    Guarded,
    MeanCache,
    Planned,
    Policy,
    Tuned,
)
from bwcache.study.methods import FewerSteps, Method
from bwcache.study.peers import (
    DBCache,
    DBCacheTaylorSeer,
    FasterCache,
    FirstBlockCache,
    Guards,
    MagCache,
    PyramidAttentionBroadcast,
    SeaCache,
    TaylorSeer,
    TaylorSeerLite,
)
from bwcache.study.peers.ladders import BWCACHE, TOLERANCES, Field, Terms
from bwcache.study.solvers import compute_range
from bwcache.study.solvers import fewer_steps as shorter

MODELS = ("shapes", "joint")
"""That our methods are compared on."""

Policies = Callable[[Terms], Sequence[Policy[Any]]]

TUNED = "Tuned"
"""The one of ours whose settings are made for a model and a regime (`plans`), from videos of it."""


@dataclass(frozen=True)
class Ours:
    """One of this project's methods.

    Attributes:
        alone: its ladder with the one number changed and all else by default: the same settings in every regime.
        guarded: its ladder between these guards, where it can be told so.
    """

    alone: Sequence[Policy[Any]]
    guarded: Policies


PLANNED = (0.012, 0.016, 0.02, 0.025, 0.03, 0.037, 0.04, 0.045, 0.06)

OURS: Mapping[str, Ours] = {
    "Planned": Ours([Planned(tolerance) for tolerance in PLANNED], lambda terms: []),
    "Planned ahead": Ours([Planned(tolerance, ahead=0.5) for tolerance in PLANNED], lambda terms: []),
    "Adaptive": Ours(
        [Adaptive(tolerance) for tolerance in TOLERANCES],
        lambda terms: [Adaptive(tolerance, terms.guards.warmup / terms.steps) for tolerance in TOLERANCES],
    ),
    "BWCache as published": Ours(
        [BWCache(*rung) for rung in BWCACHE],
        lambda terms: [Guarded(BWCache(*rung), terms.guards.warmup, terms.guards.tail) for rung in BWCACHE],
    ),
    TUNED: Ours([], lambda terms: []),
}
"""By the name that the table has for it."""


@dataclass(frozen=True)
class WithPlan(Witnessed):
    """A plan that was made for the model in its regime. Its label says how many steps it computes.

    Args:
        expected: mean PSNR in dB on the videos that it was made of, each with weights by the others.
    """

    policy: Tuned
    expected: float = 0.0

    @property
    def label(self) -> str:
        """The name, and computed steps of how many."""
        return f"{self.name} ({len(self.policy.steps)} of {len(self.policy.schedule) - 1} steps)"

    def settings(self) -> dict[str, Any]:
        """With what is expected."""
        return {**super().settings(), "expected": self.expected}


@dataclass(frozen=True)
class WithList(Witnessed):
    """A list that was fitted to the model in its regime. Its label says how many steps it computes."""

    policy: MeanCache

    @property
    def label(self) -> str:
        """The name, and computed steps of how many."""
        return f"{self.name} ({len(self.policy.computed)} of {self.policy.steps} steps)"


GUARDS: Mapping[int, tuple[Guards, ...]] = {
    30: (Guards(2, 2), Guards(6, 1), Guards(4, 1)),
    50: (Guards(2, 2), Guards(2, 1), Guards(1, 2)),
}
"""By the steps of a run: each method is tried between all of them."""

SHARES = (0.12, 0.16, 0.2, 0.27, 0.35, 0.45, 0.6, 0.75)
"""Numbers of steps without a cache, as shares of the full run."""


def rungs(make: Callable[..., Method], short: Sequence[Any], long: Sequence[Any]) -> Field:
    """A ladder for runs of up to 30 steps, and one for longer ones, on which more can be saved."""
    return lambda terms: [
        make(terms.steps, terms.guards, *(rung if isinstance(rung, tuple) else (rung,)))
        for rung in (short if terms.steps <= 30 else long)
    ]


def magcache(terms: Terms) -> list[Method]:
    """With its ratios."""
    rungs = ((0.06, 2), (0.06, 3), (0.12, 4), (0.24, 6), (0.5, 10), (1.0, 14))
    own = rungs[0 if terms.steps <= 30 else 1 :]
    return [MagCache(terms.steps, terms.guards, *rung, terms.ratios, terms.uncalibrated) for rung in own]


def easycache(terms: Terms) -> list[Method]:
    """Its tail is one step, its warm-up that of the guards."""
    thresholds = (0.035, 0.05, 0.08, 0.12, 0.2, 0.35)
    return [Plain(EasyCache(threshold, terms.guards.warmup), (), "EasyCache") for threshold in thresholds]


def foresight(terms: Terms) -> list[Method]:
    """Its warm-up is a share; a tail is laid around it."""
    share = terms.guards.warmup / terms.steps
    policies = [Foresight(scale, reuses, share) for scale, reuses in ((1.0, 2), (2.0, 4), (4.0, 6))]
    return [Plain(Guarded(policy, 1, terms.guards.tail), (), "Foresight") for policy in policies]


def fixed(name: str, predictor: Predictor) -> Field:
    """A fixed interval, the plainest of all."""

    def field(terms: Terms) -> list[Method]:
        intervals = (2, 3, 4, 5, 6, 8, 10, 12) if terms.steps <= 30 else (3, 4, 5, 6, 8, 10)
        guards = terms.guards
        return [Plain(FixedInterval(n, guards.warmup, guards.tail, predictor), (), name) for n in intervals]

    return field


def fewer_steps(terms: Terms) -> list[Method]:
    """With Euler, whatever the pipeline's own scheduler is."""
    euler = diffusers.FlowMatchEulerDiscreteScheduler
    counts = compute_range(SHARES, terms.steps)
    if isinstance(terms.scheduler, euler):
        return [FewerSteps(count) for count in counts]
    return [FewerSteps(count, "Euler", functools.partial(replaced, kind=euler, given={})) for count in counts]


def multistep(terms: Terms) -> list[Method]:
    """With UniPC and DPM++ 2M; that of the two which the pipeline has goes by its own name."""
    euler = isinstance(terms.scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
    every = shorter(compute_range(SHARES, terms.steps), terms.scheduler)
    return [one for one in every if one.solver is not None or not euler]


ORDERS = ((2, 1), (3, 1), (3, 2), (4, 1), (5, 1), (7, 1), (9, 1)), ((3, 1), (4, 1), (5, 1), (5, 2), (7, 1), (9, 1))
"""Interval and order of TaylorSeer."""

CHANGES = (0.05, 0.08, 0.12, 0.2, 0.3), (0.08, 0.12, 0.2, 0.3, 0.45)
"""Of the first blocks."""

BUDGETS = ((0.25, 2), (0.35, 3), (0.5, 4), (0.8, 6), (1.2, 8))
"""Threshold and skipped steps of SeaCache."""

PEERS: Mapping[str, Field] = {
    "seacache": rungs(SeaCache, BUDGETS, BUDGETS),
    "taylorseer-lite": rungs(TaylorSeerLite, *ORDERS),
    "magcache": magcache,
    "taylorseer": rungs(TaylorSeer, *ORDERS),
    "fixed": fixed("fixed interval", Last()),
    "fixed-linear": fixed("fixed interval, linear", Linear()),
    "easycache": easycache,
    "first-block": rungs(FirstBlockCache, *CHANGES),
    "dbcache": rungs(DBCache, *CHANGES),
    "dbcache-taylorseer": rungs(DBCacheTaylorSeer, *CHANGES),
    "pab": rungs(PyramidAttentionBroadcast, *2 * (((2, 6), (4, 8), (6, 12)),)),
    "foresight": foresight,
    "fastercache": rungs(FasterCache, *2 * ((2, 4),)),
}
"""By the name for --method: caches of other libraries and papers, and the plain fixed interval."""

FITTED = "meancache"
"""The peer whose lists are made for a model and a regime, from the videos that our plans are made of."""

FAR_BEHIND = ("pab", "foresight", "fastercache")
"""Who skips attention alone, or block by block: tried between the first guards only."""

SHORTER: Mapping[str, Field] = {"fewer-steps": fewer_steps, "multistep": multistep}
"""By the name for --method: no cache at all."""


def settings(name: str, terms: Sequence[Terms]) -> list[Method]:
    """Return all settings of a contender that is not ours, each once, under terms that differ in their guards."""
    field = {**PEERS, **SHORTER}[name]
    return once(method for one in terms[: 1 if name in FAR_BEHIND else None] for method in field(one))


def policies(name: str, terms: Sequence[Terms]) -> list[Policy[Any]]:
    """Return all settings of a method of ours, each once."""
    ours = OURS[name]
    every = [*ours.alone, *(policy for one in terms for policy in ours.guarded(one))]
    return list({json.dumps(policy.describe(), sort_keys=True): policy for policy in every}.values())


def witnessed(name: str, race: Race) -> list[Method]:
    """Return all settings of a method of ours in a race."""
    own = policies(name, race.terms)
    return [Witnessed(one, (), name, witness=race.witness(one)) for one in tqdm(own, f"{name}, witness")]


def with_plans(race: Race) -> list[Method]:
    """Return a plan for each number of computed steps, made for a race's model in its regime."""
    return [WithPlan(one.policy, (), TUNED, "", race.witness(one.policy), one.expected) for one in plans_for(race)]


def with_lists(race: Race) -> list[Method]:
    """Return MeanCache with a list of each number of computed steps, from the videos that plans are made of."""
    traces = race.traces(MeanCache.measuring(race.steps), MADE_OF)
    made = [MeanCache.fitted(traces, count) for count in race.lengths.computed or COMPUTED[race.steps]]
    return [WithList(one, (), "MeanCache", "", race.witness(one)) for one in made]


def contender(name: str) -> Contender:
    """Return one by its name.

    Ours run with one number alone at all its values, and what is made for a model at all, whatever came out.
    """
    if name == TUNED:
        return Contender("ours", with_plans, always=lambda methods: methods)
    if name in OURS:
        alone = len(OURS[name].alone)
        return Contender("ours", functools.partial(witnessed, name), always=lambda methods: methods[:alone])
    if name == FITTED:
        return Contender("peer", with_lists, always=lambda methods: methods)
    kind = "peer" if name in PEERS else "fewer steps"
    return Contender(kind, lambda race: settings(name, race.terms), may_fall_behind=name in PEERS)


CONTENDERS: Mapping[str, Contender] = {name: contender(name) for name in (*SHORTER, *PEERS, FITTED, *OURS)}
"""By the name for --method."""

KINDS = {name: one.kind for name, one in CONTENDERS.items()}
