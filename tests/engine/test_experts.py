"""Wan 2.2: two denoisers share one schedule, and each stands for itself."""

from typing import Any

import pytest
import torch

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.engine.test_restore import tensors_alive
from tests.tiny import BY_NAME, Scripted, wan

CASE = BY_NAME["wan_two_experts"]
SWITCH = 5  # of 10 steps from 1000 down to 1 the sixth is at 445, the first below the boundary of 500


def expert(event: bwcache.Event) -> str:
    return event.site.split("/")[0]


def test_each_expert_has_its_part_of_the_schedule() -> None:
    pipe = CASE.build()
    with bwcache.attach(pipe, BWCache(threshold=10.0)) as session:
        CASE.run(pipe)
    assert {event.step for event in session.trace.events if expert(event) == "transformer"} == set(range(SWITCH))
    assert {event.step for event in session.trace.events if expert(event) == "transformer_2"} == set(range(SWITCH, 10))
    assert {event.total for event in session.trace.events} == {10}
    assert len(session.traces) == 1


@pytest.mark.parametrize("decision", ["shared", "per_branch"])
@pytest.mark.parametrize("interval", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("predictor", [bwcache.Last(), bwcache.Linear()], ids=repr)
def test_the_second_experts_first_call_computes_and_the_window_ends_there(
    decision: Any, interval: int, predictor: bwcache.Predictor
) -> None:
    pipe = CASE.build()
    policy = BWCache(10.0, interval, tail_guard=0, decision=decision, predictor=predictor)
    with bwcache.attach(pipe, policy) as session:
        CASE.run(pipe)
    line = reuse_line(session.trace.events)
    assert line[SWITCH] == "C"
    assert line[SWITCH + 1] == "C"  # it has nothing to compare its first step with
    assert line[SWITCH + 2] == "r"  # and is then judged by its own two steps
    first = [event for event in session.trace.events if event.step == SWITCH]
    assert [event.action for event in first] == ["compute", "compute"]
    assert [event.indicator for event in first] == [None, None]
    assert "nothing kept" in first[0].reason


def test_even_a_policy_that_wants_to_reuse_computes_there() -> None:
    pipe = CASE.build()
    with bwcache.attach(pipe, Scripted(frozenset(range(1, 10)))) as session:
        CASE.run(pipe)
    assert reuse_line(session.trace.events) == "Crrrr" + "Crrrr"


def test_the_tail_guard_counts_over_the_whole_schedule() -> None:
    pipe = CASE.build()
    with bwcache.attach(pipe, BWCache(10.0, 1, tail_guard=1)) as session:
        CASE.run(pipe)
    assert session.trace.first_trigger == 2
    line = reuse_line(session.trace.events)
    assert line == "CCrCr" + "CCr" + "CC"  # k = 2: one step by half of k, two by all of it
    assert "tail guard" in session.trace.events[-1].reason


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_the_first_experts_features_are_dropped_at_the_switch() -> None:
    pipe = CASE.build()
    hidden = (1, 8, 24)
    CASE.run(pipe)
    before = tensors_alive(hidden)
    kept = []

    def count(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        kept.append(tensors_alive(hidden) - before)
        return kwargs

    with bwcache.attach(pipe, Scripted(frozenset({2, 3, 7, 8}))):
        CASE.run(pipe, callback_on_step_end=count)
    assert kept[0] == kept[SWITCH - 1] == kept[SWITCH] == kept[8] == 2  # one per branch, never of both experts
    assert kept[9] == 0


def test_what_either_expert_alone_may_be_missing() -> None:
    pipe = wan(experts=2)
    for missing in ("transformer", "transformer_2"):
        kept = getattr(pipe, missing)
        setattr(pipe, missing, None)
        names = {"transformer", "transformer_2"} - {missing}
        with bwcache.attach(pipe, BWCache()):
            assert set(bwcache.models.denoisers(pipe)) == names
        setattr(pipe, missing, kept)


def test_the_second_expert_of_a_second_run_knows_nothing_of_the_first_run() -> None:
    pipe = CASE.build()
    with bwcache.attach(pipe, BWCache(threshold=10.0, reuse_interval=3)) as session:
        first, second = CASE.run(pipe), CASE.run(pipe)
    assert torch.equal(first, second)
    assert reuse_line(session.traces[0].events) == reuse_line(session.traces[1].events)


def test_what_is_kept_of_one_is_gone_where_another_that_never_reuses_ran_in_between() -> None:
    pipe, never = CASE.build(), BWCache(threshold=0)
    policy = bwcache.PerDenoiser({"transformer": Scripted(frozenset({3, 5, 6})), "transformer_2": never})
    latents, text = torch.randn(1, 4, 1, 4, 4), torch.randn(1, 8, 8)
    with bwcache.attach(pipe, policy, steps=8) as session:
        for index in range(8):
            other = index in (2, 4)
            denoiser = pipe.transformer_2 if other else pipe.transformer
            with session.step(index=index, total=8, branch="cond"):
                denoiser(latents, torch.tensor([1000.0 - 100 * index]), text)
    assert reuse_line(session.trace.events) == "CCCCCCrC"


def test_one_that_never_reuses_has_all_its_rows() -> None:
    pipe = CASE.build()
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        CASE.run(pipe)
    rows = [(event.step, event.branch, event.site, event.action) for event in session.trace.events]
    assert len(set(rows)) == len(rows) == 20
    assert {event.reason for event in session.trace.events} == {"never reuses with these settings"}
    assert session.trace.hidden_bytes > 0
