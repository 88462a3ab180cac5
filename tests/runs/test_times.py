"""How time is told: twice, rounded, upwards, as a sigma or its logarithm, for each token, from the middle on."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.models import denoisers, resolve
from tests.newer import (
    MiniMaxH3Scheduler,
)
from tests.runs.cases import BY_NAME, LUMINA2, Z_IMAGE, unipc
from tests.runs.laws import CAREFREE, told, totals
from tests.tiny import VIDEO_TO_VIDEO, Case, noise, wan_transformer
from tests.zoo import minimax

UNNAMED = Case(
    "wan_video_to_video",
    VIDEO_TO_VIDEO.build,
    {**VIDEO_TO_VIDEO.call, "strength": 1.0},
    VIDEO_TO_VIDEO.branches,
)
"""From pure noise, and without a name for its branches."""


def given(pipe: Any) -> list[float]:
    """The times that the pipeline passes to its denoiser from now on, the highest of each forward."""
    times: list[float] = []
    for name, module in denoisers(pipe).items():
        stack = resolve(name, module)

        def before(module: Any, args: Any, kwargs: Any, stack: Any = stack) -> None:
            times.append(torch.as_tensor(stack.timestep.read(args, kwargs)).max().item())

        module.register_forward_pre_hook(before, with_kwargs=True)
    return times


# --- schedulers with more timesteps than steps ------------------------------------------------------------------------

ORDERS = {
    "heun": (HeunDiscreteScheduler, 19),
    "kdpm2": (KDPM2DiscreteScheduler, 19),
    "pndm": (lambda: PNDMScheduler(skip_prk_steps=True), 11),
    "pndm_runge_kutta": (lambda: PNDMScheduler(skip_prk_steps=False), 19),
    "euler": (EulerDiscreteScheduler, 10),
}


@pytest.mark.parametrize(("scheduler", "steps"), ORDERS.values(), ids=ORDERS)
def test_every_evaluation_is_a_step(scheduler: Any, steps: int) -> None:
    """Of order 2: each but the last timestep is evaluated twice. PNDM: one timestep comes again, and nobody counts."""
    case = BY_NAME["stable_diffusion"]
    pipe = case.build()
    pipe.scheduler = scheduler()
    seen = told(case, pipe)
    assert seen.lengths == [steps]
    assert seen.lines[0].startswith("CCrrCrr")
    schedule = pipe.scheduler.timesteps.tolist()
    assert len(schedule) == steps
    assert [event.timestep for event in seen.traces[0].events] == schedule


@pytest.mark.parametrize("case", [UNNAMED, BY_NAME["wan"]], ids=lambda case: case.name)
def test_flow_matching_of_order_two(case: Case) -> None:
    pipe = case.build()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    seen = told(case, pipe)
    assert seen.lengths == [19]
    assert seen.branches() == [case.branches] * 19


# --- times that cannot be told apart ----------------------------------------------------------------------------------


def test_half_precision_times_that_collide() -> None:
    """A shift of 12 over 100 steps, cast to the weights' dtype: a third of the steps has the time of its neighbour."""
    case = BY_NAME["HunyuanVideo15Pipeline"]
    pipe = case.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=12.0)
    pipe.to(torch.bfloat16)
    half: dict[str, Any] = {
        key: value.bfloat16() for key, value in case.call.items() if torch.is_tensor(value) and "mask" not in key
    }
    times = given(pipe)
    case.run(pipe, num_inference_steps=100, **half)
    assert len(set(times)) < 75
    seen = told(case, pipe, num_inference_steps=100, **half)
    assert seen.lengths == [100]
    assert seen.branches() == [case.branches] * 100
    assert seen.lines == ["CC" + "rrC" * 32 + "CC"]


def test_half_precision_times_without_names() -> None:
    pipe = UNNAMED.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=12.0)

    def rounding(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs["timestep"] = kwargs["timestep"].bfloat16()
        return args, kwargs

    pipe.transformer.register_forward_pre_hook(rounding, with_kwargs=True)
    seen = told(UNNAMED, pipe, num_inference_steps=100)
    assert seen.lengths == [100]
    assert seen.branches() == [UNNAMED.branches] * 100


def test_whole_numbers() -> None:
    pipe = UNNAMED.build()
    pipe.scheduler = unipc()
    assert told(UNNAMED, pipe).lines == ["CCrrCrrCCC"]
    assert pipe.scheduler.timesteps.dtype == torch.int64


# --- other scales and directions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [BY_NAME["mochi"], LUMINA2, Z_IMAGE], ids=lambda case: case.name)
def test_time_that_runs_upwards(case: Case) -> None:
    pipe = case.build()
    times = given(pipe)
    seen = told(case, pipe)
    assert all(a <= b for a, b in pairwise(times[: len(seen.forwards)]))
    assert seen.lengths == [10]
    assert seen.lines == ["CCrrCrrCCC"]
    schedule = pipe.scheduler.timesteps.tolist()
    assert [event.timestep for event in seen.traces[0].events] == [schedule[f.step] for f in seen.forwards]


SIGMAS = {
    "CosmosTextToWorldPipeline": lambda sigma: sigma / (sigma + 1),
    "Cosmos2VideoToWorldPipeline": lambda sigma: sigma / (sigma + 1),
    "Cosmos2_5_PredictBasePipeline": lambda sigma: sigma,
    "svd": lambda sigma: 0.25 * math.log(sigma),
}


@pytest.mark.parametrize("name", SIGMAS)
def test_time_as_a_sigma_or_its_logarithm(name: str) -> None:
    """What the denoiser is told is in no list of timesteps; the scheduler counts, and its sigmas are in the trace."""
    case = BY_NAME[name]
    pipe = case.build()
    times = given(pipe)
    seen = told(case, pipe)
    assert seen.lines == ["CCrrCrrCCC"]
    assert seen.branches() == [case.branches] * 10
    sigmas = pipe.scheduler.sigmas.tolist()
    assert [event.sigma for event in seen.traces[0].events] == pytest.approx([sigmas[f.step] for f in seen.forwards])
    assert all(a >= b for a, b in pairwise(times[: len(seen.forwards)]))


# --- a time for each token or frame -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "LTXImageToVideoPipeline",
        "LTX2ImageToVideoPipeline",
        "WanImageToVideoPipeline TI2V",
        "LucyEditPipeline TI2V",
        "SanaImageToVideoPipeline",
        "AnyFlowPipeline I2V",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
    ],
)
def test_times_of_given_frames_do_not_count(name: str) -> None:
    """The first frame's tokens stand at 0, or nearly; the highest time is the step's."""
    case = BY_NAME[name]
    pipe = case.build()
    seen = told(case, pipe)
    assert seen.lengths == [10]
    assert seen.branches() == [case.branches] * 10
    assert seen.lines == ["CCrrCrrCCC"]
    schedule = pipe.scheduler.timesteps.tolist()
    assert [event.timestep for event in seen.traces[0].events] == pytest.approx(
        [schedule[f.step] for f in seen.forwards]
    )


def test_times_of_given_frames_above_the_steps_own() -> None:
    """Cosmos Predict 2.5: the given frame keeps the time 0.1 while the others pass below it; both branches alike."""
    seen = told(BY_NAME["Cosmos2_5_PredictBasePipeline V2W"])
    assert seen.lengths == [30]
    assert seen.branches() == [("call0", "call1")] * 30


KEY_FRAMES = minimax.LATER[0]
"""MiniMax-H3 with given frames: these are the cleanest, time runs upwards, and the highest one stays in every step."""


def test_where_the_highest_time_never_moves_the_mean_tells_the_step() -> None:
    """In the first two steps no frame but the given ones has a time yet, so these two look like branches of one."""
    module = KEY_FRAMES.build()
    with bwcache.attach(module, CAREFREE, steps=8) as session:
        for i in range(8):
            KEY_FRAMES.run(module, i / 8)
    assert [event.step for event in session.trace.events] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert "".join(event.action[0] for event in session.trace.events) == "cccrrcrc"


def test_a_highest_time_that_never_moves_is_no_matter_where_a_scheduler_counts() -> None:
    module, scheduler = KEY_FRAMES.build(), MiniMaxH3Scheduler()
    pipe = SimpleNamespace(components={"transformer": module}, scheduler=scheduler)
    latents = noise(1, 8, 16)
    with bwcache.attach(pipe, CAREFREE) as session:
        scheduler.set_timesteps(11)
        for i, time in enumerate(scheduler.timesteps):
            latents = scheduler.step(KEY_FRAMES.run(module, i / 10)[0], time, latents, return_dict=False)[0]
    assert reuse_line(session.trace.events) == "CCrrCrrCCC"
    assert totals(session.traces) == [10]


# --- from the middle on, and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.8, 0.5])
@pytest.mark.parametrize("name", ["animatediff_video_to_video", "LTXConditionPipeline"])
def test_a_schedule_from_the_middle_on(name: str, strength: float) -> None:
    """DDIM, which does not count; and LTX, which cuts its timesteps. The tail guard counts from the real end."""
    case = BY_NAME[name]
    seen = told(case, strength=strength)
    assert seen.lengths in ([round(10 * strength)], [10])
    assert "r" in seen.lines[0]
    assert seen.lines[0].endswith("C")


def test_an_inversion_after_a_run_and_a_run_after_an_inversion() -> None:
    case = BY_NAME["stable_diffusion"]
    pipe = case.build()
    down = pipe.scheduler
    up = DDIMInverseScheduler.from_config(down.config)
    with bwcache.attach(pipe, CAREFREE) as session:
        for scheduler in (down, up, down):
            pipe.scheduler = scheduler
            case.run(pipe)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrrCrrCCC"] * 3
    assert totals(session.traces) == [10, 10, 10]
    times = [[event.timestep for event in trace.events] for trace in session.traces]
    assert times[0] == times[2] == sorted(times[0], reverse=True)
    assert times[1] == sorted(times[1])
    pipe.scheduler = up
    assert told(case, pipe).lengths == [10]


def loop(module: Any, times: list[float], branches: int) -> Tensor:
    latents = noise(1, 4, 2, 4, 4)
    for time in times:
        for branch in range(branches):
            with torch.no_grad():
                made = module(latents, torch.tensor([time]), noise(1, 6, 8, seed=branch), return_dict=False)[0]
            latents = latents + 0.05 * made
    return latents


@pytest.mark.parametrize("branches", [1, 2])
def test_down_and_up_again_on_a_bare_module(branches: int) -> None:
    """The way back begins at the very time at which the way down ended."""
    module = wan_transformer()
    down = [1000.0 - 100 * i for i in range(10)]
    plain = [loop(module, times, branches) for times in (down, down[::-1])]
    with bwcache.attach(module, bwcache.BWCache(threshold=0), steps=10) as session:
        assert torch.equal(loop(module, down, branches), plain[0])
        assert torch.equal(loop(module, down[::-1], branches), plain[1])
    assert [(trace.steps, len(trace.events)) for trace in session.traces] == [(10, 10 * branches)] * 2
    with bwcache.attach(module, CAREFREE, steps=10) as session:
        loop(module, down, branches)
        loop(module, down[::-1], branches)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrrCrrCCC"] * 2


# --- another scheduler ------------------------------------------------------------------------------------------------


def test_schedulers_swapped_between_calls() -> None:
    """That count and that do not, with repeated timesteps and without: each run is told by the one that it had."""
    case = BY_NAME["stable_diffusion"]
    pipe = case.build()
    swaps = [
        (DDIMScheduler(), 10),
        (EulerDiscreteScheduler(), 10),
        (PNDMScheduler(skip_prk_steps=True), 11),
        (HeunDiscreteScheduler(), 19),
        (DDIMScheduler(), 10),
    ]
    with bwcache.attach(pipe, CAREFREE) as session:
        for scheduler, _ in swaps:
            pipe.scheduler = scheduler
            case.run(pipe)
    assert totals(session.traces) == [steps for _, steps in swaps]
    assert [trace.steps for trace in session.traces] == [steps for _, steps in swaps]
    assert all("r" in reuse_line(trace.events) for trace in session.traces)
    assert reuse_line(session.traces[0].events) == reuse_line(session.traces[-1].events)
