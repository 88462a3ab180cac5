"""FixedInterval: its decisions, worked out by hand, and what they do to a real run."""

import pytest

import bwcache
from bwcache import FixedInterval, Linear, Observation, SettingError, Step
from bwcache.policies import Policy
from tests import tiny
from tests.policies.proof import ALONE, proves

SITE = "transformer/stack"


def decided(policy: Policy, total: int, branches: tuple[str, ...] = ("cond",)) -> dict[str, str]:
    """A letter per step and branch, as the engine asks: the first step is computed without asking."""
    state = policy.init()
    letters = dict.fromkeys(branches, "")
    for index in range(total):
        for branch in branches:
            observation = Observation(Step(0, index, total, 1000.0 - index, None, branch), SITE)
            computes = index == 0 or policy.decide(observation, state).action == "compute"
            letters[branch] += "C" if computes else "r"
            if computes:
                policy.refresh(observation, state)
    return letters


@proves(FixedInterval, "sequences worked out by hand", "decisions", on=ALONE)
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"interval": 2}, "CrCrCrCrCC"),
        ({"interval": 3}, "CrrCrrCrrC"),
        ({"interval": 3, "warmup": 2, "tail": 2}, "CCrrCrrCCC"),
        ({"interval": 4, "warmup": 3, "tail": 0}, "CCCrrrCrrr"),
        ({"interval": 100, "warmup": 0, "tail": 1}, "CrrrrrrrrC"),
        ({"interval": 1}, "CCCCCCCCCC"),
        ({"interval": 5, "warmup": 20}, "CCCCCCCCCC"),
    ],
)
def test_decisions_by_hand(settings: dict, expected: str) -> None:
    both = decided(FixedInterval(**settings), 10, ("cond", "uncond"))
    assert both == {"cond": expected, "uncond": expected}


@pytest.mark.parametrize(
    "settings",
    [{"interval": 0}, {"interval": 2.5}, {"interval": True}, {"warmup": -1}, {"tail": -1}, {"predictor": "linear"}],
)
def test_settings_that_cannot_work(settings: dict) -> None:
    with pytest.raises(SettingError, match=rf"found {next(iter(settings))} .*; expected .*; "):
        FixedInterval(**settings)


def test_a_number_of_steps_that_nobody_knows_is_never_reused() -> None:
    policy = FixedInterval(interval=3)
    state = policy.init()
    state.computed["cond"] = 4
    decision = policy.decide(Observation(Step(0, 5, None, None, None, "cond"), SITE), state)
    assert decision.action == "compute"
    assert policy.needs_total


def test_a_run_follows_it_and_linear_makes_other_videos_of_the_same_steps() -> None:
    pipe = tiny.wan()
    made = []
    for policy in (FixedInterval(3, warmup=2), FixedInterval(3, warmup=2, predictor=Linear())):
        with bwcache.attach(pipe, policy) as session:
            made.append(tiny.WAN.run(pipe, num_inference_steps=8))
        computed = {event.step for event in session.trace.events if event.action == "compute"}
        assert computed == {0, 1, 4, 7}
    assert (made[0] != made[1]).any()
