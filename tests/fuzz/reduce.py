"""A failing scenario made as small as it can be, and printed as a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from tests.fuzz.policies import Chosen
from tests.fuzz.scenario import Call, Scenario, source

TRIES = 300
"""How many simpler scenarios are tried at most."""


def reduced(scenario: Scenario, fails: Callable[[Scenario], bool], tries: int = TRIES) -> Scenario:
    """The simplest scenario found that still fails: parts are left out or made as by default, as long as it does."""
    left = tries
    shrinking = True
    while shrinking and left > 0:
        shrinking = False
        for simpler in _simpler(scenario):
            left -= 1
            if fails(simpler):
                scenario, shrinking = simpler, True
                break
            if left <= 0:
                break
    return scenario


def as_test(scenario: Scenario, name: str) -> str:
    """A pytest test of this scenario, ready to be pasted."""
    return (
        "from tests.fuzz.oracle import check\n"
        "from tests.fuzz.policies import Chosen\n"
        "from tests.fuzz.scenario import (\n"
        "    Break, Call, Cast, Copy, Do, Enter, Hook, Leave, Says, Scenario, Stop, Unhook, Use\n)\n\n\n"
        f"def test_{name}() -> None:\n    assert check({source(scenario)}) == []\n"
    )


def _simpler(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios that are one part simpler, the greatest parts first."""
    script = scenario.script
    for i in range(len(script)):
        yield replace(scenario, script=script[:i] + script[i + 1 :])
    for name in ("kind", "scheduler", "bare", "target", "timing", "per_sample", "memory", "told"):
        yield from _by_default(scenario, name)
    settings = scenario.policy.settings
    for i in range(len(settings)):
        chosen = Chosen(scenario.policy.name, settings[:i] + settings[i + 1 :])
        if _accepted(chosen):
            yield replace(scenario, policy=chosen)
    for i, action in enumerate(script):
        for field in fields(action):
            for other in _by_default(action, field.name):
                yield replace(scenario, script=(*script[:i], other, *script[i + 1 :]))
        if isinstance(action, Call):
            for change in _fewer(action):
                yield replace(scenario, script=(*script[:i], change, *script[i + 1 :]))


def _by_default(value: Any, name: str) -> Iterator[Any]:
    default = next(field.default for field in fields(value) if field.name == name)
    if default is not MISSING and getattr(value, name) != default:
        yield replace(value, **{name: default})


def _fewer(call: Call) -> Iterator[Call]:
    for i, do in enumerate(call.does):
        yield replace(call, does=call.does[:i] + call.does[i + 1 :])
        for field in fields(do):
            for other in _by_default(do, field.name):
                yield replace(call, does=(*call.does[:i], other, *call.does[i + 1 :]))
        if do.at > 0:
            yield replace(call, does=(*call.does[:i], replace(do, at=do.at - 1), *call.does[i + 1 :]))
    if call.says is not None:
        for field in fields(call.says):
            for other in _by_default(call.says, field.name):
                yield replace(call, says=other)
    if call.steps > 5:
        yield replace(call, steps=call.steps - 1)
    if call.batch > 2:
        yield replace(call, batch=2)
    if call.breaks is not None and call.breaks.at > 0:
        yield replace(call, breaks=replace(call.breaks, at=call.breaks.at - 1))


def _accepted(chosen: Chosen) -> bool:
    try:
        return chosen.policy is not None
    except Exception:
        return False
