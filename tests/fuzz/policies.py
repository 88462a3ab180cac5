"""Every policy that the package exports, with settings drawn by the types of its fields."""

from __future__ import annotations

import collections.abc
import dataclasses
import random
import types
import typing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import bwcache
from bwcache import policies
from bwcache.features import Predictor
from bwcache.features.weighted import Weighted

MOST_STEPS = 6
FLOATS = (0.0, 0.02, 0.1, 0.15, 0.3, 0.5, 1.0, 2.0, 10.0)
INTEGERS = (0, 1, 1, 2, 2, 3, 4)
WINDOW = (0, 100, 400, 700, 900, 1001)
"""Of timesteps."""
REPLAYS = "bwcache.Last()"


@dataclass(frozen=True)
class Chosen:
    """A policy by its class's name, and those of its settings that are not as by default, as Python."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()

    @cached_property
    def policy(self) -> Any:
        """The policy itself."""
        names = {"bwcache": bwcache, "inf": float("inf")}
        return policies.known()[self.name](**{name: eval(value, names) for name, value in self.settings})

    @property
    def never_reuses(self) -> bool:
        return not self.policy.may_reuse

    @property
    def replays(self) -> bool:
        """Whether what is skipped is always what was last computed."""
        return type(self.policy.feature_predictor) in (bwcache.Last, type(None))

    @property
    def foretells(self) -> bool:
        """Whether brute force can tell what is made of clean latents: `clean.foretold`."""
        return self.replays or type(self.policy.feature_predictor) in (bwcache.Bounded, Weighted)


def draw_policy(chance: random.Random) -> Chosen:
    """Some policy with some of its settings changed, which it accepts."""
    name = chance.choice(sorted(policies.known()))
    for _ in range(1000):
        settings = TOGETHER[name](chance) if name in TOGETHER else _settings(chance, policies.known()[name])
        chosen = Chosen(name, tuple(settings))
        try:
            assert chosen.policy
        except bwcache.SettingError:
            continue
        return chosen
    raise AssertionError(f"found no settings that {name} accepts; teach tests/fuzz/policies.py its fields")


def _settings(chance: random.Random, policy: type) -> typing.Iterator[tuple[str, str]]:
    hints = typing.get_type_hints(policy)
    for field in dataclasses.fields(policy):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        long = type(field.default) is int and field.default > MOST_STEPS  # nothing would come of it in so few steps
        if required or long or chance.random() < 0.5:
            value = _value(chance, hints[field.name])
            if value is not None:
                yield field.name, value


def _value(chance: random.Random, hint: Any) -> str | None:
    """A value of a type, as Python; None where nothing is known of the type."""
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "None"
    if hint is bool:
        return repr(chance.random() < 0.5)
    if hint is int:
        return repr(chance.choice(INTEGERS))
    if hint is float:
        return repr(chance.choice((*FLOATS, *INTEGERS)))
    if kind is typing.Literal:
        return repr(chance.choice(of))
    if kind in (typing.Union, types.UnionType):
        return _value(chance, chance.choice(of))
    if kind is tuple and of[1:] == (...,):
        items = [_value(chance, of[0]) for _ in range(chance.randrange(1, 5))]
        return None if None in items else f"({', '.join(map(str, items))},)"
    if hint == tuple[float, float]:
        return repr(tuple(sorted(chance.sample(WINDOW, 2))))
    if kind is tuple:
        items = [_value(chance, each) for each in of]
        return None if None in items else f"({', '.join(map(str, items))},)"
    if isinstance(hint, type) and issubclass(hint, Predictor):
        return _predictor(chance)
    if kind is collections.abc.Mapping:
        one = _value(chance, of[1])
        return None if one is None else f"{{'transformer': {one}}}"
    if isinstance(kind or hint, type) and issubclass(kind or hint, policies.Policy):
        inner = draw_policy(chance)
        return f"bwcache.policies.{inner.name}({', '.join(f'{name}={value}' for name, value in inner.settings)})"
    return None


def _predictor(chance: random.Random) -> str:
    """Replaying half of the time: what brute force can judge."""
    others = ("Bounded()", "Linear()", "Damped()", "Taylor(0)", "Taylor(1)", "Taylor(2)")
    return REPLAYS if chance.random() < 0.5 else f"bwcache.{chance.choice(others)}"


def _tuned(chance: random.Random) -> typing.Iterator[tuple[str, str]]:
    """A list of some steps of a made-up schedule, with weights that sum to 1 and without."""
    total = chance.randrange(2, MOST_STEPS + 1)
    steps = sorted({0, *chance.sample(range(total), chance.randrange(total))})
    rows = [[chance.choice((1.0, 0.5, -0.5, 1.5)) for _ in range(chance.randrange(1, 4))] for _ in steps]
    yield "steps", repr(tuple(steps))
    yield "rows", repr(tuple(map(tuple, rows)))
    yield "schedule", repr(tuple(round(1 - step / total, 4) for step in range(total + 1)))


TOGETHER = {"Tuned": _tuned}
"""Policies whose settings belong together -> how they are drawn."""
