"""Several pipelines around one denoiser: whoever calls is followed."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from torch import nn

import bwcache
from bwcache import OverBudgetError
from bwcache.core.trace import reuse_line
from bwcache.engine.clock import Caller
from tests.engine.test_clock import LTX, VIDEO_TO_VIDEO, Stop, grid, rows, sharing, stop_after
from tests.engine.test_restore import tensors_alive
from tests.runs.cases import BY_NAME, MODULAR_WAN, unipc
from tests.runs.laws import CAREFREE
from tests.tiny import WAN, Case, noise, wan, wan_transformer

STABLE = BY_NAME["stable_diffusion"]
WHOLE = {"strength": 1.0}


def other(pipe: Any, scheduler: Any) -> Any:
    """A second pipeline around the same parts."""
    if isinstance(pipe, StableDiffusionPipeline):
        return StableDiffusionPipeline(**{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False)
    return sharing(pipe, scheduler)


PAIRS = {
    "flow": (LTX, lambda: FlowMatchEulerDiscreteScheduler(shift=5.0), ("cond_uncond",), {}, 6),
    "named": (WAN, lambda: FlowMatchEulerDiscreteScheduler(shift=5.0), ("cond", "uncond"), {}, 6),
    "unnamed": (VIDEO_TO_VIDEO, unipc, ("call0", "call1"), WHOLE, 6),
    "counts": (STABLE, EulerDiscreteScheduler, ("call0",), {}, 6),
    "does not count": (STABLE, lambda: PNDMScheduler(skip_prk_steps=True), ("call0",), {}, 7),
}


@pytest.mark.parametrize(("case", "scheduler", "branches", "changes", "steps"), PAIRS.values(), ids=PAIRS)
def test_a_second_pipeline_with_a_scheduler_of_its_own_is_reused_as_well(
    case: Case, scheduler: Any, branches: Any, changes: Any, steps: int
) -> None:
    pipe = case.build()
    second = other(pipe, scheduler())
    with bwcache.attach(second, CAREFREE) as session:
        case.run(second, num_inference_steps=6, **changes)
        expected = reuse_line(session.trace.events)
    assert "r" in expected
    with bwcache.attach(pipe, CAREFREE) as session:
        for _ in range(2):
            case.run(pipe, **changes)
            case.run(second, num_inference_steps=6, **changes)
    mine, its, *_ = session.traces
    assert len(session.traces) == 4
    assert rows(its) == grid(steps, *branches)
    assert {event.total for event in its.events} == {steps}
    assert [reuse_line(trace.events) for trace in session.traces] == [reuse_line(mine.events), expected] * 2
    schedule = second.scheduler.timesteps.tolist()
    assert [event.timestep for event in its.events] == [schedule[event.step] for event in its.events]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("after", [1, 5])
@pytest.mark.parametrize("case", [VIDEO_TO_VIDEO, STABLE], ids=lambda case: case.name)
def test_a_call_that_broke_off_is_not_continued_by_another_pipeline(case: Case, after: int) -> None:
    pipe = case.build()
    second = other(pipe, FlowMatchEulerDiscreteScheduler() if case is VIDEO_TO_VIDEO else EulerDiscreteScheduler())
    changes: dict[str, Any] = {"strength": 0.4} if case is VIDEO_TO_VIDEO else {}
    with bwcache.attach(pipe, CAREFREE):
        alone = case.run(second, seed=1, **changes)
    with bwcache.attach(pipe, CAREFREE) as session:
        with suppress(Stop):
            case.run(pipe, callback_on_step_end=stop_after(after), **{**changes, **(WHOLE if changes else {})})
        assert torch.equal(case.run(second, seed=1, **changes), alone)
    assert len(session.traces) == 2


def test_a_modular_pipeline_around_the_transformer_of_another() -> None:
    pipe = wan()
    modular = MODULAR_WAN.build()
    modular.update_components(transformer=pipe.transformer)
    with bwcache.attach(pipe, CAREFREE) as session:
        WAN.run(pipe)
        MODULAR_WAN.run(modular, num_inference_steps=8)
        WAN.run(pipe)
    assert [rows(trace) for trace in session.traces] == [
        grid(10, "cond", "uncond"),
        grid(8, "call0", "call1"),
        grid(10, "cond", "uncond"),
    ]
    assert {event.total for event in session.traces[1].events} == {8}
    assert session.traces[1].reused > 0


def test_a_scheduler_that_is_swapped_between_two_calls() -> None:
    pipe = STABLE.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        for scheduler in (EulerDiscreteScheduler(), PNDMScheduler(skip_prk_steps=True), EulerDiscreteScheduler()):
            pipe.scheduler = scheduler
            STABLE.run(pipe)
    assert [trace.events[0].total for trace in session.traces] == [10, 11, 10]


class Own:
    """A pipeline of somebody's own: a scheduler and a transformer, and a loop."""

    def __init__(self, transformer: Any) -> None:
        self.transformer, self.scheduler = transformer, FlowMatchEulerDiscreteScheduler()
        self.dead: list[bool] = []

    def __call__(self, steps: int) -> None:
        self.scheduler.set_timesteps(steps)
        latents = noise(1, 4, 2, 4, 4)
        for time in self.scheduler.timesteps:
            held = torch.zeros(7)
            gone = weakref.ref(held)
            with torch.no_grad():
                made = self.transformer(latents, time[None], noise(1, 6, 8), return_dict=False)[0]
            del held
            self.dead.append(gone() is None)
            latents = self.scheduler.step(made, time, latents, return_dict=False)[0]


def test_of_a_call_nothing_is_kept_alive() -> None:
    """Looking for the pipeline keeps no tensor of its call, and no pipeline."""
    module = wan_transformer()
    own = Own(module)
    with bwcache.attach(module, CAREFREE) as session:
        own(8)
        assert session.trace.meta["source"] == "scheduler"
        assert session.trace.reused > 0
        assert own.dead == [True] * 8
        gone = weakref.ref(own)
        del own
        gc.collect()
        assert gone() is None


def test_a_call_that_holds_its_own_variables_keeps_them() -> None:
    """Up to Python 3.12 `locals()` is the very mapping that a look at the frame fills."""
    module = nn.Linear(1, 1)

    class Logs:
        def __init__(self) -> None:
            self.unet, self.scheduler = module, None

        def __call__(self, steps: int) -> dict[str, Any]:
            said = locals()
            assert Caller().pipeline(module) is self
            return dict(said)

    assert Logs()(7)["steps"] == 7


def at(pipeline: Any, module: Any) -> Any:
    return Caller().pipeline(module)


class Broken:
    @property
    def scheduler(self) -> Any:
        raise RuntimeError("not now")


def test_what_is_no_pipeline_is_passed_over() -> None:
    module = nn.Linear(1, 1)
    assert at(SimpleNamespace(unet=module, scheduler=None), module) is not None
    assert at(SimpleNamespace(unet=nn.Linear(1, 1), scheduler=None), module) is None
    assert at(SimpleNamespace(unet=module), module) is None
    assert at(SimpleNamespace, module) is None
    assert at(None, module) is None
    broken = Broken()
    broken.unet = module  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="not now"):
        broken.scheduler  # noqa: B018
    assert at(broken, module) is None


def test_a_compiled_denoiser_is_its_pipelines_too() -> None:
    module = nn.Linear(1, 1)
    pipeline = SimpleNamespace(unet=torch.compile(module, backend="eager"), scheduler=None)
    assert at(pipeline, module) is pipeline


def test_a_module_may_be_a_pipeline() -> None:
    module, whole = nn.Linear(1, 1), nn.Module()
    whole.unet, whole.scheduler = module, None
    assert at(whole, module) is whole


def test_what_a_pipeline_says_of_its_call() -> None:
    module = nn.Linear(1, 1)

    class Says:
        def __init__(self) -> None:
            self.unet, self.scheduler, self.mine = module, None, 3

        def __call__(self) -> list[Any]:
            do_classifier_free_guidance = True
            found = Caller()
            names = ("do_classifier_free_guidance", "mine", "nothing")
            assert do_classifier_free_guidance
            return [found.says(module, name) for name in names]

    assert Says()() == [True, 3, None]


def test_whoever_calls_is_asked_whether_it_guides() -> None:
    """Two branches are planned for where the caller guides, and one where it does not, whoever the session is of."""
    pipe = wan()
    second = sharing(pipe, FlowMatchEulerDiscreteScheduler(shift=5.0))
    WAN.run(pipe, guidance_scale=5.0)
    WAN.run(second, guidance_scale=1.0)
    for attached in (pipe, second):
        with bwcache.attach(attached, CAREFREE) as session:
            WAN.run(second, guidance_scale=1.0)
            WAN.run(pipe, guidance_scale=5.0)
        alone, both = session.traces
        assert alone.planned_bytes == alone.peak_bytes
        assert both.planned_bytes == both.peak_bytes == 2 * alone.peak_bytes
        with bwcache.attach(attached, CAREFREE, max_memory=alone.peak_bytes) as session:
            WAN.run(second, guidance_scale=1.0)
            with pytest.raises(OverBudgetError):
                WAN.run(pipe, guidance_scale=5.0)
        assert session.traces[0].reused > 0
        assert not session.traces[1].events  # refused before a block ran


def test_whoever_calls_shows_how_far_its_loop_goes() -> None:
    case = BY_NAME["stable_diffusion_xl"]
    pipe = case.build()
    second = type(pipe)(**{**pipe.components, "scheduler": EulerDiscreteScheduler(beta_schedule="scaled_linear")})
    second.set_progress_bar_config(disable=True)
    with bwcache.attach(pipe, CAREFREE) as session:
        case.run(second, denoising_end=0.5)
        case.run(pipe)
        case.run(second, denoising_end=0.8)
    assert [trace.events[0].total for trace in session.traces] == [5, 10, 8]


@pytest.mark.parametrize("target", ["module", "first", "second"])
def test_what_is_kept_goes_as_the_loop_of_whoever_calls_breaks_off(target: str) -> None:
    pipe = wan()
    second = sharing(pipe, FlowMatchEulerDiscreteScheduler(shift=5.0))
    WAN.run(second)
    before = tensors_alive((1, 8, 24))
    with bwcache.attach({"module": pipe.transformer, "first": pipe, "second": second}[target], CAREFREE) as session:
        with pytest.raises(Stop):
            WAN.run(second, callback_on_step_end=stop_after(3))
        assert tensors_alive((1, 8, 24)) == before
        assert session.trace.peak_bytes > 0


@pytest.mark.parametrize("scheduler", [object(), torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)]), 1)])
def test_a_scheduler_of_something_else_makes_no_pipeline(scheduler: Any) -> None:
    module = nn.Linear(1, 1)
    assert at(SimpleNamespace(unet=module, scheduler=scheduler), module) is None


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_the_first_forward_of_a_run_sees_a_pipeline_in_code_that_had_none_before() -> None:
    module = wan_transformer()

    def loop(holder: Any) -> None:
        for time in (900.0, 800.0, 700.0, 600.0):
            module(noise(1, 4, 2, 4, 4), torch.tensor([time]), noise(1, 6, 8))
            if holder is not None:
                holder.scheduler.step_index = (holder.scheduler.step_index or 0) + 1

    times = torch.tensor([900.0, 800.0, 700.0, 600.0])
    pipeline = SimpleNamespace(unet=module, scheduler=SimpleNamespace(timesteps=times, step_index=None))
    with bwcache.attach(module, CAREFREE, steps=4) as session, torch.no_grad():
        loop(None)
        loop(pipeline)
    assert [(trace.meta["source"], trace.steps) for trace in session.traces] == [("timestep", 4), ("scheduler", 4)]
