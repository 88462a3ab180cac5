"""The share of noise: of schedulers that name it in four ways, against the latents that they make."""

import itertools
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

import bwcache
from bwcache.engine.clock import Schedule
from tests import tiny

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SCHEDULERS = {
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": FlowMatchHeunDiscreteScheduler(),
    "unipc": UniPCMultistepScheduler(**FLOW),
    "unipc_noise": UniPCMultistepScheduler(),
    "euler": EulerDiscreteScheduler(),
    "ddim": DDIMScheduler(),
}


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "heun"])  # whose own noise is of another step
def test_it_is_how_much_of_noisy_latents_is_noise(name: str) -> None:
    """Noise is added by the scheduler itself to data of ones; data and noise are then read from mean and spread."""
    scheduler: Any = SCHEDULERS[name]
    scheduler.set_timesteps(8)
    schedule = Schedule.read(scheduler, 0)
    assert schedule is not None
    assert schedule.noises is not None
    assert len(schedule.noises) == len(schedule.timesteps) + 1
    data, noise = torch.ones(1, 200_000), torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    for index in (1, len(schedule.timesteps) // 2 + 1):
        at = scheduler.timesteps[index].expand(1)
        made = scheduler.scale_noise(data, at, noise) if name == "flow" else scheduler.add_noise(data, noise, at)
        share = float(made.std() / (made.std() + made.mean()))
        assert schedule.noises[index] == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_falls_to_nothing(name: str) -> None:
    scheduler: Any = SCHEDULERS[name]
    scheduler.set_timesteps(8)
    schedule = Schedule.read(scheduler, 0)
    assert schedule is not None
    assert schedule.noises is not None
    assert list(schedule.noises) == sorted(schedule.noises, reverse=True)
    assert schedule.noises[0] > 0.9
    assert schedule.noises[-1] == pytest.approx(0.0, abs=0.02)


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_mochis_sigmas_rise_and_its_noise_falls() -> None:
    steps = steps_of(tiny.BY_NAME["mochi"])
    assert steps[0].sigma < steps[-1].sigma
    noises = [step.noise for step in steps]
    assert noises == sorted(noises, reverse=True)
    assert noises[0] == pytest.approx(1.0)
    assert steps[-1].next_noise == pytest.approx(0.0, abs=0.02)


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_each_step_begins_where_the_last_one_ended() -> None:
    for case in (tiny.WAN, tiny.BY_NAME["cogvideox"]):
        steps = steps_of(case)
        for step, following in itertools.pairwise(steps):
            assert step.next_noise == following.noise
        progress = [step.progress for step in steps]
        assert progress == sorted(progress)
        assert 0 <= progress[0] < 0.1


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_a_bare_module_is_told_evenly() -> None:
    module = tiny.wan_transformer()
    seen: list[bwcache.Step] = []
    with bwcache.attach(module, Listening(seen), steps=4), torch.no_grad():
        for time in (1000.0, 700.0, 300.0, 50.0):
            module(tiny.noise(1, 4, 2, 4, 4), torch.tensor([time]), tiny.noise(1, 3, 8))
    assert [(step.noise, step.next_noise) for step in seen] == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]


class Listening(bwcache.Policy):
    """Computes, and notes every step."""

    def __init__(self, seen: list[bwcache.Step]) -> None:
        object.__setattr__(self, "seen", seen)

    def init(self) -> None:
        return None

    def decide(self, observation: bwcache.Observation, state: None) -> bwcache.Decision:
        return bwcache.Decision("compute", "always")

    def refresh(self, observation: bwcache.Observation, state: None) -> None:
        self.seen.append(observation.step)  # type: ignore[attr-defined]


def steps_of(case: tiny.Case) -> list[bwcache.Step]:
    """The steps of the first branch of one run."""
    pipe, seen = case.build(), []
    with bwcache.attach(pipe, Listening(seen)):
        case.run(pipe, num_inference_steps=6)
    return [step for step in seen if step.branch == seen[0].branch]
