"""MeanCache: the authors' rule on latents and guided velocities, written around the scheduler's step, in numpy."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DEISMultistepScheduler, FlowMatchHeunDiscreteScheduler

import bwcache
from bwcache import MeanCache, SettingError, Trace
from tests import tiny
from tests.policies.proof import ROUNDED, proves
from tests.tiny import BY_NAME, Case

STEPS = 12
CLOSE = 5e-5
"""Relative: latents subtracted from each other and divided by small times, against sums of velocities."""


class Plain:
    """A log of latents and guided velocities; in a step that is not on the list the denoiser's answer is not read."""

    def __init__(self, pipe: Any, computed: tuple[int, ...], lags: tuple[int, ...]) -> None:
        self.inner, self.sigmas = pipe.scheduler.step, None
        self.pipe, self.computed, self.lags = pipe, computed, lags
        self.x: list[np.ndarray] = []
        self.v: list[np.ndarray] = []

    def __call__(self, velocity: Any, time: Any, latents: Any, *args: Any, **kwargs: Any) -> Any:
        sigmas, i = self.pipe.scheduler.sigmas.double().numpy(), len(self.v)
        self.x.append(latents.double().numpy())
        if i in self.computed:
            self.v.append(velocity.double().numpy())
        else:
            edge = max(place for place, step in enumerate(self.computed) if step < i)
            r = max(i - self.lags[edge], 0)
            gone = (self.x[i] - self.x[r]) / (sigmas[i] - sigmas[r])
            turned = (self.v[r] - gone) / (sigmas[i] - sigmas[r])
            self.v.append(self.v[-1] - turned * (sigmas[i + 1] - sigmas[i]))
        return self.inner(torch.from_numpy(self.v[-1]).to(velocity.dtype), time, latents, *args, **kwargs)


def plain(case: Case, computed: tuple[int, ...], lags: tuple[int, ...]) -> torch.Tensor:
    pipe = case.build()
    pipe.scheduler.step = Plain(pipe, computed, lags)
    return case.run(pipe, num_inference_steps=STEPS)


@proves(MeanCache, "the authors' rule around the scheduler's step, in numpy", ROUNDED)
@pytest.mark.parametrize(
    ("computed", "lags"),
    [((0, 1, 3, 7, 10), (1, 2, 1, 3, 4)), ((0, 2, 5, 8, 11), (1, 2, 5, 6, 1)), ((0, 1, 2, 3), (1, 1, 1, 9))],
    ids=str,
)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "ltx", "hunyuan"])
def test_it_is_the_rule_on_the_guided_velocity(name: str, computed: tuple[int, ...], lags: tuple[int, ...]) -> None:
    """Guided in two forwards, in one, and not: what each branch does by itself adds up to the same."""
    case = BY_NAME[name]
    expected = plain(case, computed, lags)
    pipe = case.build()
    with bwcache.attach(pipe, MeanCache(computed, lags, STEPS)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert {event.step for event in session.trace.events if event.action == "compute"} == set(computed)
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()
    replayed = plain(case, computed, (1,) * len(lags))
    assert (made - replayed).abs().max() > 10 * CLOSE * expected.abs().max()


def test_a_lag_of_one_replays_bit_for_bit() -> None:
    case, listed, pipe = BY_NAME["wan"], (0, 1, 4, 8), tiny.wan()
    with bwcache.attach(pipe, MeanCache(listed, (1,) * 4, STEPS)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert {e.reason for e in session.trace.events if e.action == "reuse"} == {"mean velocity (replayed)"}
    inner, calls, kept = pipe.transformer.forward, [0], {}

    def forward(*args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(calls[0], 2)
        calls[0] += 1
        if step in listed:
            kept[branch] = inner(*args, **kwargs)
        return (kept[branch][0].clone(),)

    pipe.transformer.forward = forward
    assert torch.equal(case.run(pipe, num_inference_steps=STEPS), made)


@pytest.fixture(scope="module", params=["wan", "mochi", "wan that ends with noise"])
def case(request: pytest.FixtureRequest) -> Case:
    """Mochi's sigmas rise to 1; those of the last one end at a twelfth."""
    if request.param in BY_NAME:
        return BY_NAME[request.param]
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 1}
    return replace(tiny.WAN, build=lambda: tiny.wan(DEISMultistepScheduler(**flow)))


@pytest.fixture(scope="module")
def traces(case: Case) -> list[Trace]:
    made = []
    for seed in (0, 1):
        pipe = case.build()
        with bwcache.attach(pipe, MeanCache.measuring(STEPS)) as session:
            measured = case.run(pipe, seed, num_inference_steps=STEPS)
        assert torch.equal(measured, case.run(case.build(), seed, num_inference_steps=STEPS))
        made.append(session.trace)
    return made


@pytest.fixture(scope="module")
def missed(case: Case) -> dict[tuple[int, int, int], float]:
    """By computed step, next one and K: what the mean velocity over the edge misses, from the velocities themselves."""
    found: dict[tuple[int, int, int], list[float]] = {}
    for seed in (0, 1):
        pipe, log = case.build(), []
        pipe.transformer.register_forward_hook(lambda _m, _a, out, log=log: log.append(out[0].double().numpy()))
        case.run(pipe, seed, num_inference_steps=STEPS)
        times, branches = pipe.scheduler.sigmas.double().numpy(), len(case.branches)
        for branch in range(branches):
            true = log[branch::branches]
            for t in range(STEPS):
                for lag in range(1, t + 2):
                    v = [*true[: t + 1]]
                    for i in range(t + 1, STEPS):
                        r = i - lag
                        gone = sum(v[j] * (times[j + 1] - times[j]) for j in range(r, i)) / (times[i] - times[r])
                        v.append(v[-1] - (v[r] - gone) / (times[i] - times[r]) * (times[i + 1] - times[i]))
                    for s in range(t + 1, STEPS + 1):
                        off = sum((v[i] - true[i]) * (times[i + 1] - times[i]) for i in range(t, s))
                        error = float(np.sqrt(np.mean((off / (times[s] - times[t] or 1.0)) ** 2)))  # over no time: none
                        found.setdefault((t, s, lag), []).append(error)
    return {edge: float(np.mean(some)) for edge, some in found.items()}


@pytest.mark.parametrize(("count", "power", "most"), [(4, 4.0, 6), (5, 1.0, 2), (3, 2.0, 3), (12, 4.0, 6)])
def test_the_list_is_the_best_of_all(
    traces: list[Trace], missed: dict[tuple[int, int, int], float], count: int, power: float, most: int
) -> None:
    """By brute force over every list of so many steps."""
    best = {
        (t, s): min((missed[t, s, lag], lag) for lag in range(1, min(most, t + 1) + 1))
        for t in range(STEPS)
        for s in range(t + 1, STEPS + 1)
    }

    def cost(path: tuple[int, ...]) -> float:
        return float(sum(best[a, b][0] ** power for a, b in zip(path, (*path[1:], STEPS), strict=True)))

    expected = min(cost((0, *some)) for some in combinations(range(1, STEPS), count - 1))
    policy = MeanCache.fitted(traces, count, power, most)
    assert len(policy.computed) <= count
    assert cost(policy.computed) == pytest.approx(expected, rel=1e-3, abs=1e-12)
    assert policy.steps == STEPS
    for a, b, lag in zip(policy.computed, (*policy.computed[1:], STEPS), policy.lags, strict=True):
        assert missed[a, b, lag] == pytest.approx(best[a, b][0], rel=1e-3, abs=1e-6)


def test_two_evaluations_at_one_level_of_noise() -> None:
    """An edge over no time is no division by it: Heun's."""
    pipe = tiny.wan(FlowMatchHeunDiscreteScheduler())
    with bwcache.attach(pipe, MeanCache.measuring(2 * STEPS - 1)) as session:
        tiny.WAN.run(pipe, num_inference_steps=STEPS)
    assert MeanCache.fitted([session.trace], 2 * STEPS).computed == tuple(range(2 * STEPS - 1))
    assert len(MeanCache.fitted([session.trace], 6).computed) == 6


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_not_finite_makes_no_list(traces: list[Trace], odd: float) -> None:
    """It ended in a ValueError of zip."""
    events = list(traces[0].events)
    events[9] = replace(events[9], distances=(odd, *(events[9].distances or ())[1:]))
    with pytest.raises(SettingError, match=r"step \d+ of a run, at transformer/root, in which what was"):
        MeanCache.fitted([Trace(traces[0].meta, events), traces[1]])


def test_what_cannot_be_fitted_is_refused(traces: list[Trace]) -> None:
    for wrong in ([], [Trace()], [Trace({"policy": {"name": "NeverReuse"}}, traces[0].events)]):
        with pytest.raises(SettingError, match="traces of"):
            MeanCache.fitted(wrong)
    pipe = tiny.wan()
    with bwcache.attach(pipe, MeanCache.measuring(4)) as session:
        tiny.WAN.run(pipe, num_inference_steps=STEPS)
    with pytest.raises(SettingError, match="as many steps"):
        MeanCache.fitted([session.trace])
    with pytest.raises(SettingError, match="computed"):
        MeanCache.fitted(traces, computed=0)


def test_a_run_without_sigmas_is_refused_at_once_and_not_after_the_last_video() -> None:
    case, forwards = BY_NAME["cogvideox"], list[int]()
    pipe = case.build()
    pipe.transformer.register_forward_hook(lambda *_: forwards.append(1))
    said = pytest.raises(SettingError, match=r"whose sigmas nobody says .* calibrate another method")
    with bwcache.attach(pipe, MeanCache.measuring(STEPS)), said:
        case.run(pipe, num_inference_steps=STEPS)
    assert len(forwards) < 2


def test_another_number_of_steps_is_refused() -> None:
    pipe = tiny.wan()
    with bwcache.attach(pipe, MeanCache()), pytest.raises(SettingError, match="a list for 50 steps; expected for 12"):
        tiny.WAN.run(pipe, num_inference_steps=STEPS)


def test_the_published_lists_belong_together() -> None:
    for name in bwcache.policies.meancache.PUBLISHED:
        policy = MeanCache.published(name)
        assert policy.computed[-1] == policy.steps - 1 == 49
        assert f"{len(policy.computed)} of 50 steps" in name
    assert MeanCache() == MeanCache.published("Qwen-Image, 10 of 50 steps")


@pytest.mark.parametrize(
    "bad",
    [{"computed": (1, 2)}, {"computed": (0, 2, 2)}, {"lags": (1,)}, {"lags": (0,) * 10}, {"steps": 0}, {"lags": 3}],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        MeanCache(**bad)
