"""The timestep that windows are of: 1000..0 descending, whatever the scheduler counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    CogVideoXDDIMScheduler,
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    FlowMatchEulerDiscreteScheduler,
)

import bwcache
from bwcache import FasterCache, FixedInterval, PyramidAttentionBroadcast, Step
from bwcache.engine.clock import Schedule
from tests import tiny
from tests.tiny import BY_NAME
from tests.zoo import MODELS, PIPELINES

ZOO = {case.name: case for case in PIPELINES}
ZOO_MODELS = {case.name: case for case in MODELS}


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx", "mochi"])
def test_it_is_what_the_pipeline_says_to_its_own_callbacks(name: str) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    said: list[float] = []
    seen: list[float | None] = []

    class Looks(FixedInterval):
        def decide(self, observation: bwcache.Observation, state: Any) -> bwcache.Decision:
            said.append(float(pipe.current_timestep))
            seen.append(observation.step.training_timestep)
            return super().decide(observation, state)

    with bwcache.attach(pipe, Looks()) as session:
        case.run(pipe)
    assert seen == pytest.approx(said, abs=0.01)
    assert said[0] > 700 > 400 > said[-1]
    rises = [event.timestep or 0 for event in session.trace.events]
    assert (rises == sorted(rises)) is (name == "mochi")


def test_of_a_scheduler_that_counts_from_1_to_0_it_is_the_noise() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1)
    scheduler.set_timesteps(8)
    schedule = Schedule.read(scheduler, 0)
    assert schedule is not None
    assert schedule.noises is not None
    for timestep, noise in zip(schedule.timesteps, schedule.noises, strict=False):
        step = Step(0, 0, 8, timestep, None, "all", noise=noise, trained=schedule.trained)
        assert step.training_timestep == pytest.approx(1000 * timestep, abs=1e-3)


def test_a_native_model_that_takes_1_to_0_has_open_windows() -> None:
    """Its host says no scheduler; the window of 100 to 800 was never open before."""
    model = tiny.wan_transformer()
    policy = PyramidAttentionBroadcast(2)
    with bwcache.attach(model, policy, steps=10) as session, torch.no_grad():
        for i in range(10):
            model(tiny.noise(1, 4, 1, 8, 8), torch.tensor([1 - i / 10]), tiny.noise(1, 6, 8))
    assert {event.action for event in session.trace.events if 3 <= event.step < 9} == {"compute", "reuse"}
    assert {event.action for event in session.trace.events if event.step < 3} == {"compute"}


def test_a_native_model_of_which_nobody_said_how_many_steps_there_are_is_computed() -> None:
    """Its times, 1 to 0, were held against windows of 1000 to 0: those that reach down to 0 were always open."""
    model = tiny.wan_transformer()
    said = pytest.warns(bwcache.NeverReusedWarning, match="timestep unknown")
    with said, bwcache.attach(model, FasterCache(guidance=1)) as session, torch.no_grad():
        for i in range(10):
            model(tiny.noise(1, 4, 1, 8, 8), torch.tensor([1 - i / 10]), tiny.noise(1, 6, 8))
    assert {event.reason for event in session.trace.events if event.step > 0} == {"timestep unknown"}


@pytest.mark.parametrize("steps", [20, None])
def test_mochi_on_a_bare_module_counts_up(steps: int | None) -> None:
    """Its window of 100 to 800 lay at the other end of the run; by its row it lies where the pipeline's does."""
    case, seen = ZOO_MODELS["MochiTransformer3DModel"], list[tuple[float | None, float | None]]()

    class Looks(PyramidAttentionBroadcast):
        def decide(self, observation: bwcache.Observation, state: None) -> bwcache.Decision:
            seen.append((observation.step.timestep, observation.step.training_timestep))
            return super().decide(observation, state)

    module = case.build()
    with bwcache.attach(module, Looks(2), steps=steps) as session:
        for i in range(20):
            case.run(module, (i / 20) ** 2)
    assert all(time is not None and said == pytest.approx(1000 - time) for time, said in seen)
    reused = {event.step for event in session.trace.events if event.action == "reuse"}
    assert reused == {i for i in range(1, 20, 2) if 100 < 1000 - 1000 * (i / 20) ** 2 < 800}


def test_where_a_video_is_inverted_noise_and_timesteps_rise() -> None:
    scheduler = DDIMInverseScheduler.from_config(DDIMScheduler().config)
    scheduler.set_timesteps(8)
    schedule = Schedule.read(scheduler, 0)
    assert schedule is not None
    assert schedule.timesteps[0] < schedule.timesteps[-1]
    assert schedule.trained == 1000


def test_sigmas_that_rise_above_1_are_of_an_inversion() -> None:
    """They were taken for Mochi's shares of data: noise went from .99 to -47."""
    scheduler = DPMSolverMultistepInverseScheduler()
    scheduler.set_timesteps(8)
    schedule = Schedule.read(scheduler, 0)
    assert schedule is not None
    assert schedule.noises is not None
    sigmas = scheduler.sigmas.tolist()
    assert schedule.noises[:8] == pytest.approx([sigma / (1 + sigma) for sigma in sigmas[:8]], abs=1e-6)
    assert schedule.noises[0] < 0.1 < 0.9 < schedule.noises[7]
    assert schedule.trained == 1000


def test_a_hundred_training_steps_are_a_thousand_of_the_windows() -> None:
    """The small denoisers of robots are trained so; the window of 100 to 800 was never open there."""
    pipe = BY_NAME["cogvideox"].build()
    pipe.scheduler = CogVideoXDDIMScheduler(num_train_timesteps=100)
    with bwcache.attach(pipe, PyramidAttentionBroadcast(2)) as session:
        BY_NAME["cogvideox"].run(pipe)
    assert {event.action for event in session.trace.events} == {"compute", "reuse"}
    scheduler = pipe.scheduler
    times = scheduler.timesteps.tolist()
    for event in session.trace.events:
        inside = 100 < 10 * times[event.step] < 800
        assert (event.action == "reuse") is (inside and event.step % 2 == 1), event


def test_logarithms_of_sigma_are_no_training_timesteps() -> None:
    scheduler = CMStochasticIterativeScheduler()
    scheduler.set_timesteps(8)
    schedule = Schedule.read(scheduler, 0)
    assert schedule is not None
    assert schedule.timesteps[0] > 1000
    assert schedule.timesteps[-1] < 0
    assert schedule.trained is None


def test_a_thousand_sigmas_are_no_training_timesteps() -> None:
    """Cosmos 2 counts from 80,000 down to 2: windows of 100 to 800 were open where sigma is below 1 alone."""
    case, seen = ZOO["Cosmos2TextToImagePipeline"], dict[float, float | None]()

    class Looks(FixedInterval):
        def decide(self, observation: bwcache.Observation, state: Any) -> bwcache.Decision:
            seen[observation.step.sigma or 0.0] = observation.step.training_timestep
            return super().decide(observation, state)

    pipe = case.build()
    with bwcache.attach(pipe, Looks()):
        case.run(pipe)
    assert pipe.scheduler.timesteps[0] > 10_000
    assert len(seen) == 9
    for sigma, timestep in seen.items():
        assert timestep == pytest.approx(1000 * sigma / (1 + sigma))


@pytest.mark.parametrize(
    ("timestep", "noise", "trained", "expected"),
    [
        (None, 0.2, None, None),
        (850, 0.15, None, 150),
        (850, None, None, None),
        (850, 0.15, 1000, 850),
        (0, 0.05, 1000, 0),
        (85, 0.15, 100, 850),
        (850, None, -1000, 150),
    ],
)
def test_of_a_step(timestep: float | None, noise: float | None, trained: int | None, expected: float | None) -> None:
    assert Step(0, 0, None, timestep, None, "all", noise=noise, trained=trained).training_timestep == expected
