"""Eight ranks, any of which may lack, doubt, refuse or stop something at any step: all of them do the same.

The ranks are threads, and each block of a model meets the others, as where tokens are split or weights are gathered. So
a rank that computed, reused, raised or spoke alone is seen at once.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bwcache
from bwcache import Adaptive, BWCache, BWCacheError, DBCache, EasyCache, FirstBlock, Foresight, Linear
from bwcache.core.trace import reuse_line
from bwcache.engine import together
from bwcache.engine.memory import MemoryPlan
from bwcache.engine.run import Run
from bwcache.features import taps
from tests.ranks.test_context import Residual
from tests.ranks.threads import ApartError, Meeting, spread
from tests.tiny import Scripted, noise, wan_transformer

pytestmark = [
    pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning"),
    pytest.mark.filterwarnings("ignore:found invalidate:RuntimeWarning"),
]

RANKS, STEPS = 8, 5
REUSED = frozenset({2, 3})
POLICIES: dict[str, bwcache.Policy[Any]] = {
    "BWCache": BWCache(threshold=0.3, reuse_interval=2),
    "exact": BWCache(threshold=0.3, reuse_interval=2, sample=1),
    "scripted": Scripted(REUSED),
    "line": Scripted(REUSED, Linear()),
    "residual": Residual(REUSED),
    "judged": Adaptive(0.5, 0.0),
    "FirstBlock": FirstBlock(threshold=0.1),
    "DBCache": DBCache(threshold=0.5, front=1, warmup=1),
    "Foresight": Foresight(50.0, 1, 0.3),
    "EasyCache": EasyCache(0.5, 2),
}

FAULTS = ("measures nothing", "keeps nothing", "has no room", "is not finite", "stops", "forgets")
"""What may happen on a rank in a step, on it alone."""

Fault = tuple[int, int, str]
"""Rank, step, what."""


class Faulty(threading.local):
    """The faults of this thread's rank: by step."""

    def __init__(self) -> None:
        self.at: dict[int, set[str]] = {}
        self.step = -1

    def now(self, what: str) -> bool:
        return what in self.at.get(self.step, ())


@pytest.fixture(scope="module")
def modules() -> list[Any]:
    return [wan_transformer(layers=2) for _ in range(RANKS)]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    here = Faulty()
    for kind in (taps.LateTaps, taps.SampledTaps, taps.ExactTaps):
        measure = kind.measure
        monkeypatch.setattr(
            kind, "measure", lambda self, measure=measure: _less(measure(self), here.now("measures nothing"))
        )
    monkeypatch.setattr(together, "PATIENCE", 0.05)
    keep, fits = Run.keep, MemoryPlan.fits
    monkeypatch.setattr(Run, "keep", lambda self, *args: not here.now("keeps nothing") and keep(self, *args))
    monkeypatch.setattr(MemoryPlan, "fits", lambda self, held: not here.now("has no room") and fits(self, held))
    return here


def _less(value: Any, lacks: bool) -> Any:
    return None if lacks else value


def sampled(
    meeting: Meeting, here: Faulty, modules: list[Any], policy: Any, faults: list[Fault], apart: bool, rank: int
) -> Any:
    """What one rank does: its line, and what it raised."""
    module, latents = modules[rank], noise(1, 4, 2, 4, 4, seed=rank * apart)
    here.at = {}
    for who, step, what in faults:
        if who == rank:
            here.at.setdefault(step, set()).add(what)
    raised = ""
    torch.set_grad_enabled(False)  # of each thread its own
    with bwcache.attach(module, policy, max_memory=2**40) as session, meets(module, meeting):
        try:
            with session.run(STEPS):
                for i in range(STEPS):
                    here.step = i
                    if here.now("stops"):
                        session.stop()
                    if here.now("forgets"):
                        session.invalidate()
                    for branch in ("cond", "uncond"):
                        with session.step(i, STEPS, branch):
                            given = latents * (1 - i / 40)
                            if here.now("is not finite"):
                                given = given * torch.nan
                            module(
                                hidden_states=given,
                                timestep=torch.tensor([1000.0 - i]),
                                encoder_hidden_states=noise(1, 6, 8, seed=1),
                                return_dict=False,
                            )
        except BWCacheError as error:
            raised = type(error).__name__
    return reuse_line(session.trace.events), raised


class meets:
    """Each block of a module meets the others within."""

    def __init__(self, module: Any, meeting: Meeting) -> None:
        self._blocks, self._meeting = module.blocks, meeting

    def __enter__(self) -> None:
        for i, block in enumerate(self._blocks):
            block.norm1.forward = partial(self._meet, f"block {i}", block.norm1.forward)

    def __exit__(self, *error: object) -> None:
        for block in self._blocks:
            del block.norm1.forward

    def _meet(self, name: str, inner: Any, *args: Any) -> Any:
        self._meeting.exchange(name)
        return inner(*args)


FAULT = st.tuples(st.integers(0, RANKS - 1), st.integers(0, STEPS - 1), st.sampled_from(FAULTS))


@pytest.mark.parametrize("relation", ["parts", "lockstep"])
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(POLICIES)), faults=st.lists(FAULT, max_size=4), apart=st.booleans())
def test_all_do_the_same(
    relation: str,
    modules: list[Any],
    faulty: Faulty,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    faults: list[Fault],
    apart: bool,
) -> None:
    """`apart`: whether each rank has a video of its own, or all have one."""
    meeting = Meeting(RANKS)
    with spread(meeting, relation, monkeypatch):
        found = meeting.run(partial(sampled, meeting, faulty, modules, POLICIES[name], faults, apart))
    alike(found)


def alike(found: list[Any]) -> None:
    for one in found:
        if isinstance(one, Exception):
            raise one
    assert len(set(found)) == 1


@pytest.mark.parametrize("relation", ["parts", "lockstep"])
@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_what_happens_on_one_rank(
    relation: str, what: str, step: int, modules: list[Any], faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as no room in the second step, after its numbers had set out: that rank alone computed in the third."""
    meeting = Meeting(RANKS)
    with spread(meeting, relation, monkeypatch):
        for name in ("scripted", "BWCache"):
            faults = [(RANKS - 1, step, what)]
            alike(meeting.run(partial(sampled, meeting, faulty, modules, POLICIES[name], faults, True)))


TOLD = st.tuples(st.integers(0, STEPS - 1), st.sets(st.integers(0, RANKS - 1), min_size=RANKS - 2))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(POLICIES)), told=st.lists(TOLD, max_size=3))
def test_whoever_is_told_to_forget(
    modules: list[Any], faulty: Faulty, monkeypatch: pytest.MonkeyPatch, name: str, told: list[tuple[int, set[int]]]
) -> None:
    """All of them or some, whose patience is short: all compute in the same steps."""
    faults = [(rank, step, "forgets") for step, ranks in told for rank in ranks]
    meeting = Meeting(RANKS)
    with spread(meeting, "parts", monkeypatch):
        alike(meeting.run(partial(sampled, meeting, faulty, modules, POLICIES[name], faults, True)))


def test_all_that_are_told_forget_at_once(modules: list[Any], faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "PATIENCE", 60.0)
    meeting = Meeting(RANKS)
    faults = [(rank, 3, "forgets") for rank in range(RANKS)]
    with spread(meeting, "parts", monkeypatch):
        found = meeting.run(partial(sampled, meeting, faulty, modules, POLICIES["scripted"], faults, True))
    assert [line for line, _ in found] == ["CCrCC"] * RANKS


@pytest.mark.parametrize("relation", ["parts", "lockstep"])
def test_without_faults_something_is_reused(
    relation: str, modules: list[Any], faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    for policy in (POLICIES["BWCache"], POLICIES["FirstBlock"], POLICIES["residual"]):
        meeting = Meeting(RANKS)
        with spread(meeting, relation, monkeypatch):
            found = meeting.run(partial(sampled, meeting, faulty, modules, policy, [], True))
        assert len(set(found)) == 1
        assert "r" in found[0][0]


def test_a_rank_that_speaks_alone_is_seen() -> None:
    meeting = Meeting(2)
    found = meeting.run(lambda rank: meeting.exchange("more") if rank else None)
    assert [type(one) for one in found] == [ApartError, ApartError]
