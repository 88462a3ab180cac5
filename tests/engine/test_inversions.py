"""A video turned back into noise: the share of noise rises, and what decides by it goes by that."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

import bwcache
from bwcache import BWCache, Planned, Step, Tuned
from bwcache.core.trace import reuse_line
from bwcache.engine.clock import HostStep, Schedule
from tests import tiny
from tests.tiny import BY_NAME

STEPS = 20


def shares(scheduler: Any, begin: int = 0) -> list[float]:
    schedule = Schedule.read(scheduler, begin)
    assert schedule is not None
    assert schedule.noises is not None
    assert len(schedule.noises) == len(schedule.timesteps) + 1
    return list(schedule.noises)


def backwards(scheduler: Any) -> Any:
    """The scheduler, its sigmas from 0 up."""
    inner = scheduler.set_timesteps

    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        scheduler.sigmas = scheduler.sigmas.flip(0)
        scheduler.timesteps = scheduler.sigmas[:-1] * 1000

    scheduler.set_timesteps = set_timesteps
    return scheduler


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_step_of_ddims_inversion_leads_to_the_time_that_names_it(spacing: str) -> None:
    """Its own step is told the model's answer; what it then mixes of data and noise tells both levels."""
    scheduler = DDIMInverseScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(8)
    found = shares(scheduler)
    assert found[0] == 0.0
    assert all(before < after for before, after in pairwise(found))
    data, noise = torch.ones(1, 1, 64, dtype=torch.float64), tiny.noise(1, 1, 64).double()
    latents, spread = data, noise - noise.mean()
    for i, time in enumerate(scheduler.timesteps):
        latents = scheduler.step(noise, int(time), latents)[0]
        of_noise = float((latents * spread).sum() / spread.norm() ** 2)
        of_data = float((latents - of_noise * noise).mean())
        assert found[i + 1] == pytest.approx(of_noise / (of_noise + of_data), abs=1e-4)
    middle = shares(scheduler, 3)
    assert middle == pytest.approx(found[3:], abs=1e-6)


def test_a_flow_backwards_is_no_mochi() -> None:
    """Its sigmas rise as Mochi's do, but are what they are called: it was read as if its noise fell."""
    scheduler = backwards(FlowMatchEulerDiscreteScheduler())
    scheduler.set_timesteps(8)
    schedule = Schedule.read(scheduler, 0)
    assert schedule is not None
    assert schedule.trained == 1000
    assert shares(scheduler) == pytest.approx(scheduler.sigmas.tolist())
    mochi = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    mochi.set_timesteps(8)
    assert shares(mochi) == pytest.approx([1 - sigma for sigma in mochi.sigmas.tolist()])


def test_sigmas_set_by_hand_from_the_middle_on_are_noise_over_data() -> None:
    """None of them is above 1, which told them from shares before."""
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.1])
    sigmas = scheduler.sigmas.tolist()
    assert max(sigmas) < 1
    assert shares(scheduler) == pytest.approx([sigma / (1 + sigma) for sigma in sigmas])


def test_progress_rises_all_the_same() -> None:
    schedule = (0.0, 0.3, 0.6, 0.8, 0.9)
    steps = [Step(0, i, 4, None, None, "cond", None, schedule[i], schedule[i + 1], schedule) for i in range(4)]
    assert all(step.inverts for step in steps)
    assert [step.progress for step in steps] == pytest.approx([0.0, 0.275, 0.55, 0.775])
    back = Step(0, 1, 4, None, None, "cond", None, 0.3, 0.6)
    assert not back.inverts  # one step of a sampler that goes back and forth
    assert back.progress == pytest.approx((0.25 + 0.7) / 2)
    falls = Step(0, 1, 4, None, None, "cond", None, 0.6, 0.3, (0.9, 0.6, 0.3, 0.1, 0.0))
    assert not falls.inverts
    assert falls.progress == pytest.approx((0.25 + 0.4) / 2)


def test_a_host_may_say_a_schedule_that_rises_but_none_that_turns() -> None:
    rising = (0.0, 0.5, 0.5, 1.0)
    assert HostStep(index=1, schedule=rising).noises == (0.5, 0.5)
    with pytest.raises(bwcache.SettingError, match="never rise, or never fall"):
        HostStep(index=1, schedule=(0.0, 0.5, 0.4, 1.0))


@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_windows_counted_in_progress_end(name: str) -> None:
    """They went on from the third step to the tail, in which nothing but the tail guard ended them."""
    case, pipe = BY_NAME["cogvideox"], BY_NAME["cogvideox"].build()
    made = {"ddim": CogVideoXDDIMScheduler(), "dpm": DDIMScheduler()}[name].config
    kind = {"ddim": DDIMInverseScheduler, "dpm": DPMSolverMultistepInverseScheduler}[name]
    pipe.scheduler = kind.from_config(made)
    policy = BWCache(threshold=10.0, reuse_interval=0.2, interval_unit="progress")
    with bwcache.attach(pipe, policy) as session:
        case.run(pipe, num_inference_steps=STEPS)
    pipe.scheduler.set_timesteps(STEPS)
    noise = shares(pipe.scheduler)
    line = reuse_line(session.trace.events)
    computed = max(i for i in range(2) if line[i] == "C")
    progress = [(i / STEPS + noise[i]) / 2 for i in range(STEPS)]
    for i in range(2, STEPS - 1):  # the tail guard computes the last step
        if progress[i] - progress[computed] > 0.2:
            assert line[i] == "C"
            computed = i
        else:
            assert line[i] == "r"
    assert line.count("C") > 4


SCHEDULE = tuple(1 - i / STEPS for i in range(STEPS + 1))


@pytest.mark.parametrize("policy", [Planned(tolerance=0.2), Tuned((0, 5, 10), ((1.0,),) * 3, SCHEDULE)])
def test_what_is_foretold_of_falling_noise_computes_where_it_rises(policy: bwcache.Policy[Any]) -> None:
    pipe = tiny.wan(backwards(FlowMatchEulerDiscreteScheduler()))
    plain = tiny.WAN.run(pipe, num_inference_steps=STEPS)
    said = pytest.warns(bwcache.NeverReusedWarning, match="noise rises")
    with said, bwcache.attach(pipe, policy) as session:
        assert torch.equal(tiny.WAN.run(pipe, num_inference_steps=STEPS), plain)
    assert session.trace.reused == 0
