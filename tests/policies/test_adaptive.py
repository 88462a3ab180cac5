"""Adaptive: its decisions by a second implementation, by hand at its edges, and in real runs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bwcache
from bwcache import Adaptive, BWCache, Damped, Observation, SettingError, Step
from bwcache.core.trace import reuse_line
from bwcache.features import PredictionError
from tests import tiny
from tests.policies.proof import ALONE, proves

SITE = "transformer/stack"


def at(index: int, noises: list[float], branch: str = "cond", sample: int | None = None) -> Step:
    total = len(noises) - 1
    return Step(0, index, total, None, None, branch, sample, noises[index], noises[index + 1])


def run(policy: Adaptive, noises: list[float], errors: list[float]) -> str:
    """A letter per step; `errors` are what each step would tell if it is computed."""
    state, line = policy.init(), ""
    for index in range(len(noises) - 1):
        observation = Observation(at(index, noises), SITE)
        computes = index == 0 or policy.decide(observation, state).action == "compute"
        line += "C" if computes else "r"
        if computes:
            told = None if index == 0 else PredictionError(errors[index], 1.0, 0.0, 0.0)
            policy.refresh(Observation(at(index, noises), SITE, None, told), state)
    return line


def second(tolerance: float, warmup: float, noises: list[float], errors: list[float]) -> str:
    """The method once more, written from its description alone."""
    steps = len(noises) - 1
    line, computed, spent = "C", [0], 0.0

    def ln(a: float, b: float) -> float:
        return abs(math.log(max(a, 0.002)) - math.log(max(b, 0.002)))

    for i in range(1, steps):
        warm = (i / steps + 1 - noises[i]) / 2 < warmup - 1e-9
        reuses = False
        if not warm and len(computed) > 1:
            here, before = noises[computed[-1]], noises[computed[-2]]
            if ln(before, here) > 0:
                foretold = errors[computed[-1]] * (ln(here, noises[i]) / ln(before, here)) ** 1.4
                clean = max(1 - (noises[i] + noises[i + 1]) / 2, 1e-3)
                weight = max(1.0, (0.3 / clean) ** 2)
                damage = spent + foretold * weight * abs(noises[i] - noises[i + 1])
                reuses = damage <= tolerance
        if reuses:
            line, spent = line + "r", damage
        else:
            line, spent = line + "C", 0.0
            computed.append(i)
    return line


@proves(Adaptive, "a second implementation in plain Python", "decisions, on drawn tables", on=ALONE)
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_decisions_equal_those_of_a_second_implementation(data: st.DataObject) -> None:
    levels = data.draw(st.lists(st.floats(0.001, 1), min_size=3, max_size=40, unique=True))
    noises = [*sorted(levels, reverse=True), 0.0]
    errors = data.draw(st.lists(st.floats(0, 0.5), min_size=len(noises), max_size=len(noises)))
    tolerance, warmup = data.draw(st.floats(0.001, 0.2)), data.draw(st.floats(0, 1))
    assert run(Adaptive(tolerance, warmup), noises, errors) == second(tolerance, warmup, noises, errors)


EVEN = [1 - i / 20 for i in range(21)]


def test_no_errors_reuse_all_that_the_warm_up_leaves() -> None:
    assert run(Adaptive(0.02, warmup=0.2), EVEN, [0.0] * 21) == "CCCC" + 16 * "r"
    assert run(Adaptive(0.02, warmup=0.0), EVEN, [0.0] * 21) == "CC" + 18 * "r"
    assert run(Adaptive(0.02, warmup=1.0), EVEN, [0.0] * 21) == 20 * "C"


def test_a_larger_tolerance_computes_less_and_zero_everything() -> None:
    errors = [0.08] * 21
    counts = [run(Adaptive(tolerance), EVEN, errors).count("C") for tolerance in (0.0, 0.001, 0.005, 0.02, 0.1)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 20
    assert counts[-1] < counts[2] < 20


@pytest.mark.parametrize(
    "settings",
    [{"tolerance": -0.1}, {"tolerance": math.nan}, {"tolerance": "much"}, {"warmup": 1.5}, {"predictor": "damped"}],
)
def test_settings_that_cannot_work(settings: dict) -> None:
    with pytest.raises(SettingError, match=rf"found {next(iter(settings))} .*; expected .*; "):
        Adaptive(**settings)


def decided_after(told: PredictionError | None, step: Step, before: tuple[Step, ...]) -> bwcache.Decision:
    policy = Adaptive()
    state = policy.init()
    for one in before:
        policy.refresh(Observation(one, SITE, None, told), state)
    return policy.decide(Observation(step, SITE), state)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (None, "no prediction to compare with yet"),
        (PredictionError(math.nan, 1.0, 0.0, 0.0), "prediction error is not finite"),
        (PredictionError(1.0, 0.0, 0.0, 0.0), "prediction error is not finite"),
        (PredictionError(9.0, 10.0, 0.0, 0.0), "damage would exceed the tolerance"),
        (PredictionError(0.01, 10.0, 0.0, 0.0), "within the tolerance"),
    ],
)
def test_reasons(told: PredictionError | None, reason: str) -> None:
    decision = decided_after(told, at(9, EVEN), (at(7, EVEN), at(8, EVEN)))
    assert decision.reason.startswith(reason)
    assert decision.reuses == (reason == "within the tolerance")


def test_without_a_noise_level_it_computes() -> None:
    step = Step(0, 3, None, None, None, "cond")
    assert decided_after(PredictionError(0.0, 1.0, 0.0, 0.0), step, (step,)).reason.startswith("noise level unknown")


def test_branches_pool_their_errors_and_share_the_decision() -> None:
    policy = Adaptive()
    state = policy.init()
    for index in (7, 8):
        for branch, missed in (("cond", 0.0), ("uncond", 9.0)):
            told = PredictionError(missed, 10.0, 0.0, 0.0)
            policy.refresh(Observation(at(index, EVEN, branch), SITE, None, told), state)
    assert state.deciders[None].last_error == PredictionError(9.0, 20.0, 0.0, 0.0)
    both = [policy.decide(Observation(at(9, EVEN, branch), SITE), state) for branch in ("cond", "uncond")]
    assert both[0] is both[1]
    policy.refresh(Observation(at(9, EVEN, "cond"), SITE, None, PredictionError(0.0, 1.0, 0.0, 0.0)), state)
    policy.refresh(Observation(at(9, EVEN, "uncond"), SITE, None, None), state)
    assert state.deciders[None].last_error is None  # one branch could not be compared: nothing is known


def test_samples_decide_for_themselves() -> None:
    policy = Adaptive()
    state = policy.init()
    for index in (7, 8):
        for sample, missed in ((0, 0.0), (1, 9.0)):
            told = PredictionError(missed, 10.0, 0.0, 0.0)
            policy.refresh(Observation(at(index, EVEN, sample=sample), SITE, None, told), state)
    actions = [policy.decide(Observation(at(9, EVEN, sample=sample), SITE), state).action for sample in (0, 1)]
    assert actions == ["reuse", "compute"]


def test_tolerance_zero_is_bit_identical_and_measures_nothing() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe, num_inference_steps=6)
    with bwcache.attach(pipe, Adaptive(tolerance=0)) as session:
        assert (tiny.WAN.run(pipe, num_inference_steps=6) == plain).all()
    assert {event.reason for event in session.trace.events} == {"never reuses with these settings"}
    assert {event.error for event in session.trace.events} == {None}
    assert session.trace.peak_bytes == 0


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_a_run_reuses_more_with_more_tolerance_and_says_the_errors() -> None:
    pipe = tiny.wan()
    reused = []
    for tolerance in (1e-6, 10.0):
        with bwcache.attach(pipe, Adaptive(tolerance, warmup=0.0)) as session:
            assert np.isfinite(np.asarray(tiny.WAN.run(pipe, num_inference_steps=8))).all()
        trace = session.trace
        reused.append(trace.reused)
        told = [event.error for event in trace.events if event.action == "compute" and event.step > 0]
        assert told
        assert all(error is not None and 0 < error < 10 for error in told)
        assert all(event.error is None for event in trace.events if event.action == "reuse")
    assert reused == [0, 6]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_the_error_of_a_replay_is_the_change_of_the_last_block() -> None:
    """All entries of a small feature are compared, so the sums are exact."""
    pipe = tiny.wan()
    left: list[torch.Tensor] = []
    hook = pipe.transformer.blocks[-1].register_forward_hook(lambda module, args, output: left.append(output.clone()))
    with bwcache.attach(pipe, BWCache(threshold=1e-9, predictor=Damped())) as session, hook:
        tiny.WAN.run(pipe, num_inference_steps=5, guidance_scale=1.0)
    errors = [event.error for event in session.trace.events]
    assert errors[0] is None
    assert errors[1] == pytest.approx(float((left[1] - left[0]).abs().sum() / left[1].abs().sum()), rel=1e-4)
    noises = [event.sigma for event in session.trace.events]
    d = (left[1] - left[0]) * (noises[2] - noises[1]) / (noises[1] - noises[0])
    assert errors[2] == pytest.approx(float((left[2] - left[1] - d).abs().sum() / left[2].abs().sum()), rel=1e-3)


def test_a_damped_prediction_takes_the_damping_of_the_last_computed_step() -> None:
    pipe = tiny.wan()
    left: list[torch.Tensor] = []
    hook = pipe.transformer.norm_out.register_forward_pre_hook(lambda module, args: left.append(args[0].clone()))
    made = {}
    for predictor in (bwcache.Last(), bwcache.Linear(), Damped()):
        left.clear()
        with bwcache.attach(pipe, bwcache.StepList((0, 1, 2), predictor)):
            tiny.WAN.run(pipe, num_inference_steps=4, guidance_scale=1.0)
        made[type(predictor)] = left[3]
    hook.remove()
    along = made[bwcache.Linear] - made[bwcache.Last]
    share = (made[Damped] - made[bwcache.Last]).flatten() @ along.flatten() / along.square().sum()
    torch.testing.assert_close(made[Damped], made[bwcache.Last] + share * along, rtol=1e-3, atol=1e-4)
    assert 0 <= share < 0.999  # random weights do not move in straight lines


def test_two_experts_start_anew() -> None:
    case = tiny.BY_NAME["wan_two_experts"]
    pipe = case.build()
    with bwcache.attach(pipe, Adaptive(10.0, warmup=0.0)) as session:
        case.run(pipe, num_inference_steps=12)
    by_site: dict[str, list[bwcache.Event]] = {}
    for event in session.trace.events:
        if event.branch == session.trace.events[0].branch:
            by_site.setdefault(event.site, []).append(event)
    assert len(by_site) == 2
    for events in by_site.values():
        assert reuse_line(events).startswith("CC")
        assert events[0].error is None


@tiny.each_case
def test_every_pipeline_reuses_under_it_and_does_so_twice_alike(case: tiny.Case) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, Adaptive(10.0, warmup=0.0)) as session:
        first, second = case.run(pipe), case.run(pipe)
    assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    one, two = session.traces
    assert reuse_line(one.events) == reuse_line(two.events)
    assert one.reuse_rate > 0.5
    assert [event.error for event in one.events] == [event.error for event in two.events]
    assert tuple(dict.fromkeys(event.branch for event in one.events)) == case.branches


def test_in_a_batch_every_video_is_what_it_is_alone() -> None:
    pipe = tiny.wan()
    latents = torch.cat([tiny.noise(1, 4, 2, 4, 4), 3 * tiny.noise(1, 4, 2, 4, 4, seed=1)])
    texts = {name: tiny.WAN.call[name].expand(2, -1, -1) for name in ("prompt_embeds", "negative_prompt_embeds")}
    policy = Adaptive(0.006, warmup=0.0)
    with bwcache.attach(pipe, policy) as session:
        both = tiny.WAN.run(pipe, num_inference_steps=16, latents=latents.clone(), **texts)
    lines = {
        sample: reuse_line([event for event in session.trace.events if event.sample == sample]) for sample in (0, 1)
    }
    for sample in (0, 1):
        with bwcache.attach(pipe, policy) as session:
            alone = tiny.WAN.run(pipe, num_inference_steps=16, latents=latents[sample : sample + 1].clone())
        assert reuse_line(session.trace.events) == lines[sample]
        torch.testing.assert_close(both[sample : sample + 1], alone, rtol=1e-3, atol=1e-4)
    assert lines[0] != lines[1]


def test_a_damage_as_large_as_the_tolerance_is_allowed() -> None:
    """From noise 1 to 1/2 as far as from 1/2 to 1/4, so that 1/2 * (1/4 - 1/8) is foretold: 1/16, exactly."""
    noises = [1.0, 0.5, 0.25, 0.125]
    assert run(Adaptive(tolerance=0.0625, warmup=0.0), noises, [0.0, 0.5, 0.0]) == "CCr"
    assert run(Adaptive(tolerance=0.0624, warmup=0.0), noises, [0.0, 0.5, 0.0]) == "CCC"
