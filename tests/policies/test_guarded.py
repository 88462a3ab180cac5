"""Guards around any policy, and a policy for each denoiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import bwcache
from bwcache import AttachError, FixedInterval, Guarded, MixCache, NeverReuse, PerDenoiser, Policy, StepList
from bwcache.core.trace import reuse_line
from tests import tiny
from tests.policies.proof import proves
from tests.policies.test_known import EVERY
from tests.tiny import BY_NAME

GREEDY = StepList((0,))
WAN, TWO = BY_NAME["wan"], BY_NAME["wan_two_experts"]


def line(policy: Policy[Any], steps: int = 10) -> str:
    pipe = tiny.wan()
    with bwcache.attach(pipe, policy) as session:
        WAN.run(pipe, num_inference_steps=steps)
    return reuse_line(session.trace.events)


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_the_first_and_the_last_steps_are_computed() -> None:
    assert line(GREEDY) == "Crrrrrrrrr"
    assert line(Guarded(GREEDY, warmup=3, tail=2)) == "CCCrrrrrCC"
    assert line(Guarded(GREEDY, warmup=0, tail=0)) == "Crrrrrrrrr"
    assert line(Guarded(GREEDY, warmup=6, tail=6)) == "CCCCCCCCCC"


def test_no_window_is_longer_than_it_may_be() -> None:
    assert line(Guarded(GREEDY, warmup=1, tail=1, longest=2)) == "CrrCrrCrrC"
    assert line(Guarded(Guarded(GREEDY, longest=3), warmup=2, tail=0)) == "CCrrrCrrrC"


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("tail", [0, 2])
def test_the_guards_of_a_policy_are_those_around_it(warmup: int, tail: int) -> None:
    made = []
    for policy in (FixedInterval(3, warmup, tail), Guarded(FixedInterval(3, 0, 0), warmup, tail)):
        pipe = tiny.wan()
        with bwcache.attach(pipe, policy) as session:
            made.append((WAN.run(pipe), [(event.action, event.reason) for event in session.trace.events]))
    assert torch.equal(made[0][0], made[1][0])
    assert made[0][1] == made[1][1]


def test_it_is_what_is_inside_in_all_else() -> None:
    for inside in EVERY:
        around = Guarded(inside, tail=0)
        for name in (
            "tap_share",
            "probes",
            "feature_predictor",
            "may_reuse",
            "needs_total",
            "needs_errors",
            "denoisers",
        ):
            assert getattr(around, name) == getattr(inside, name), (inside, name)
    assert Guarded(NeverReuse()).needs_total


def test_of_sites_that_nest_each_counts_for_itself() -> None:
    """MixCache may skip the middle blocks in the step in which all blocks must not be skipped again."""
    inside = MixCache(2, 6, 6, low=0, high=100, impact=(1, 9e9, 2), penalty=2.5)
    with bwcache.attach(pipe := tiny.wan(), Guarded(inside, longest=1)) as session:
        WAN.run(pipe, num_inference_steps=14)
    done: dict[str, list[str]] = {}
    for event in session.trace.events:
        if event.branch == "cond" and event.reason != "lies in a reused site":
            done.setdefault(event.site, [""] * 14)[event.step] = event.action
    windows = [steps for steps in done.values() if "reuse" in steps]
    assert windows
    assert not any(steps[i] == steps[i + 1] == "reuse" for steps in windows for i in range(13))


@proves(Guarded, "the policy inside, without guards", on=("wan",))
def test_without_guards_it_is_the_policy_bit_for_bit() -> None:
    every: tuple[Policy[Any], ...] = (
        bwcache.BWCache(10.0, 2),
        bwcache.EasyCache(0.4, 2),
        bwcache.Foresight(50.0, 1, 0.3),
    )
    for inside in every:
        made = []
        for policy in (inside, Guarded(inside, warmup=0, tail=0)):
            pipe = tiny.wan()
            with bwcache.attach(pipe, policy) as session:
                made.append(WAN.run(pipe))
            assert session.trace.reuse_rate > 0
        assert torch.equal(*made)


@proves(PerDenoiser, "each policy by itself", "decisions", on=("wan",))
def test_each_expert_has_a_policy_of_its_own() -> None:
    pipe = TWO.build()
    policies: dict[str, Policy[Any]] = {"transformer": StepList((0, 2)), "transformer_2": Guarded(GREEDY, tail=2)}
    with bwcache.attach(pipe, policies) as session:
        TWO.run(pipe)
    by_expert = {
        name: "".join(event.action[0] for event in session.trace.events if event.site == f"{name}/stack")
        for name in policies
    }
    assert by_expert["transformer"] == "ccrrccrrrr"[: len(by_expert["transformer"])]
    assert by_expert["transformer_2"] == "cc" + "rr" * (len(by_expert["transformer_2"]) // 2 - 3) + "cccc"
    assert session.trace.meta["policy"] == PerDenoiser(policies).describe()
    assert bwcache.policy(session.trace.meta["policy"]) == PerDenoiser(policies)


def test_an_expert_that_is_not_named_is_computed() -> None:
    pipe = TWO.build()
    with bwcache.attach(pipe, {"transformer_2": GREEDY}) as session:
        TWO.run(pipe)
    first = [event for event in session.trace.events if event.site == "transformer/stack"]
    assert {event.reason for event in first} == {"never reuses with these settings"}
    assert session.trace.reuse_rate > 0


def test_guards_around_a_policy_for_each() -> None:
    pipe = TWO.build()
    both = PerDenoiser({"transformer": GREEDY, "transformer_2": GREEDY})
    with bwcache.attach(pipe, Guarded(both, warmup=2, tail=2)) as session:
        TWO.run(pipe)
    assert reuse_line(session.trace.events) == "CCrrrCrrCC"


def test_guards_within_guards() -> None:
    inner = PerDenoiser({"transformer": Guarded(GREEDY, longest=1), "transformer_2": Guarded(GREEDY, tail=2)})
    pipe, policy = TWO.build(), PerDenoiser({name: Guarded(inner, warmup=0, tail=0) for name in inner.policies})
    made = []
    for each in (policy, inner):
        with bwcache.attach(pipe, each) as session:
            TWO.run(pipe)
        made.append(reuse_line(session.trace.events))
    assert made[0] == made[1]
    assert "r" in made[0]


def test_what_is_measured_of_an_expert_is_as_its_own_policy_says() -> None:
    policy = bwcache.BWCache(10.0, 2, sample=0.5)
    found = []
    given: list[Any] = [policy, {"transformer": policy}]
    for each in given:
        pipe = TWO.build()
        with bwcache.attach(pipe, each) as session:
            TWO.run(pipe)
        events = [event for event in session.trace.events if event.site == "transformer/stack"]
        found.append([(event.action, event.distances) for event in events])
    assert found[0] == found[1]
    assert any(distances for _, distances in found[0])


@pytest.mark.parametrize("case", [WAN, TWO], ids=["one", "two"])
def test_a_name_that_does_not_exist_is_refused(case: Any) -> None:
    pipe = case.build()
    with pytest.raises(AttachError, match=r"found a policy for 'transformer_3'; expected one of its denoisers: transf"):
        bwcache.attach(pipe, {"transformer_3": GREEDY})
    with bwcache.attach(pipe, GREEDY) as session, pytest.raises(AttachError, match="transformer_3"):
        session.use(Guarded(PerDenoiser({"transformer_3": GREEDY})))


def test_settings_that_cannot_be() -> None:
    for wrong in ({"warmup": -1}, {"tail": 1.5}, {"longest": 0}, {"policy": "BWCache"}):
        with pytest.raises(bwcache.SettingError, match=next(iter(wrong))):
            replace(Guarded(GREEDY), **wrong)
    with pytest.raises(bwcache.SettingError, match="policies"):
        bwcache.attach(tiny.wan(), {})
