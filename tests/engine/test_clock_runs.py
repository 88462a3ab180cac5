"""Where one run ends and the next begins, where nobody says so."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from torch import Tensor
from torch.overrides import TorchFunctionMode

import bwcache
from bwcache.engine.clock.call import Time
from tests.runs.cases import BY_NAME
from tests.runs.laws import GREEDY
from tests.tiny import noise, wan_transformer

TIMES = [1000.0 - 100 * i for i in range(10)]
TEXT = noise(1, 6, 8, seed=1)


def denoise(module: Any, times: list[float], seed: int = 0, text: Tensor = TEXT, fresh: bool = False) -> Tensor:
    """A plain loop; with `fresh` noise in each step, as samplers of distilled models add it."""
    latents = noise(1, 4, 2, 4, 4, seed=seed)
    for i, time in enumerate(times):
        with torch.no_grad():
            made = module(latents, torch.tensor([time]), text, return_dict=False)[0]
        latents = noise(1, 4, 2, 4, 4, seed=100 + i) if fresh else latents + 0.1 * made
    return latents


@pytest.mark.parametrize("broken", [1, 2, 4])
@pytest.mark.parametrize("text", [TEXT, noise(1, 6, 8, seed=2)], ids=["same prompt", "another prompt"])
def test_a_loop_that_broke_off_is_not_continued_by_one_that_begins_later(broken: int, text: Tensor) -> None:
    module = wan_transformer()
    with bwcache.attach(module, GREEDY, steps=10):
        alone = denoise(module, TIMES[5:], seed=7, text=text)
    with bwcache.attach(module, GREEDY, steps=10) as session:
        denoise(module, TIMES[:broken])
        assert torch.equal(denoise(module, TIMES[5:], seed=7, text=text), alone)
    second = [event for trace in session.traces for event in trace.events][broken:]
    assert [event.action[0] for event in second] == list("crrrr")


def test_the_next_video_is_a_run_of_its_own() -> None:
    module = wan_transformer()
    with bwcache.attach(module, GREEDY, steps=10) as session:
        denoise(module, TIMES[:3])
        denoise(module, TIMES[5:], seed=7)
    assert [[event.step for event in trace.events] for trace in session.traces] == [[0, 1, 2], [0, 1, 2, 3, 4]]


def test_an_image_to_go_by_among_the_channels_does_not_hide_other_noise() -> None:
    """Wan's image-to-video lays the image behind the latents: more channels than the denoiser makes."""
    module = wan_transformer()
    module.patch_embedding = torch.nn.Conv3d(12, 24, (1, 2, 2), (1, 2, 2)).requires_grad_(False)
    image = 5 * noise(1, 8, 2, 4, 4, seed=3)
    with bwcache.attach(module, GREEDY, steps=10) as session, torch.no_grad():
        for seed, times in ((0, TIMES[:3]), (7, TIMES[5:])):
            for time in times:
                latents = torch.cat([noise(1, 4, 2, 4, 4, seed=seed), image], dim=1)
                module(latents, torch.tensor([time]), TEXT, return_dict=False)
    assert [trace.steps for trace in session.traces] == [3, 5]


def test_fresh_noise_in_every_step_is_computed_and_its_steps_are_counted() -> None:
    """The first step looks like a run of its own; from then on it is known how this sampler works."""
    module = wan_transformer()
    with bwcache.attach(module, GREEDY, steps=10) as session:
        denoise(module, TIMES, fresh=True)
    assert [trace.steps for trace in session.traces] == [1, 9]
    assert {event.action for trace in session.traces for event in trace.events} == {"compute"}
    assert session.trace.events[3].reason == "latents of something else"


def test_a_marked_run_is_one_whatever_becomes_of_its_latents() -> None:
    module = wan_transformer()
    with bwcache.attach(module, GREEDY) as session, session.run(steps=10):
        denoise(module, TIMES, fresh=True)
    assert [trace.steps for trace in session.traces] == [10]
    assert "".join(event.action[0] for event in session.trace.events) == "c" + "r" * 9


@pytest.mark.parametrize("prompts", ["alike", "apart"])
def test_guidance_that_comes_on_in_the_last_step_of_a_marked_run(prompts: str) -> None:
    module, latents = wan_transformer(), noise(1, 4, 2, 4, 4)
    texts = [TEXT, TEXT.clone() if prompts == "alike" else noise(1, 6, 8, seed=2)]
    with bwcache.attach(module, GREEDY) as session, session.run(steps=4), torch.no_grad():
        for i in range(4):
            for text in texts if i == 3 else texts[:1]:
                module(latents, torch.tensor([900.0 - 100 * i]), text, return_dict=False)
    assert len(session.traces) == 1
    rows = [(event.step, event.branch, event.action) for event in session.trace.events]
    assert rows[-2:] == [(3, "call0", "reuse"), (3, "call1", "compute")]


@pytest.mark.parametrize("skips", [True, False], ids=["plms", "runge-kutta"])
@pytest.mark.parametrize("strength", [0.4, 0.5, 0.8, 0.9, 1.0])
def test_pndm_from_the_middle_on(strength: float, skips: bool) -> None:
    """It does not count, and a timestep that comes twice is two steps wherever sampling begins."""
    case = BY_NAME["StableDiffusionXLImg2ImgPipeline"]
    pipe = case.build()
    pipe.scheduler = PNDMScheduler(skip_prk_steps=skips)
    times: list[float] = []
    pipe.unet.register_forward_pre_hook(lambda module, args: times.append(float(args[1])))
    with bwcache.attach(pipe, bwcache.NeverReuse()) as session:
        case.run(pipe, strength=strength)
    assert [(event.step, event.branch) for event in session.trace.events] == [(i, "call0") for i in range(len(times))]
    assert {event.total for event in session.trace.events} == {len(times)}
    assert [event.timestep for event in session.trace.events] == times


class Calls(TorchFunctionMode):
    """The names of what is done with tensors, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64], ids=str)
def test_a_mean_of_times_is_taken_on_the_host(dtype: torch.dtype) -> None:
    """Not every device has numbers of 64 bits. The same times in another layout have the same mean."""
    times = torch.tensor([[900, 100, 300, 0]] * 3).to(dtype)
    with Calls() as calls:
        mean = Time(times).mean
    assert calls.names.index("cpu") < min(i for i, name in enumerate(calls.names) if name in ("to", "double"))
    assert mean == pytest.approx(325, abs=1)
    assert Time(times.T.contiguous().T).mean == mean == Time(times[:1].expand(3, 4)).mean


def test_the_package_asks_no_device_for_numbers_of_64_bits() -> None:
    from bwcache.engine.clock import call, latents, rounded_times

    for module in (latents, rounded_times):
        source = inspect.getsource(module)
        assert "float64" not in source
        assert "double" not in source
    assert inspect.getsource(call).count("float64") == 1
