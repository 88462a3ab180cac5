import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from bwcache import shapes
from bwcache.errors import NoBlocksFoundError, SettingError
from bwcache.measure.call import Progress, Request, call, pipeline_arguments
from bwcache.measure.latency import DenoiseTimer


@pytest.fixture(scope="module")
def pipe():
    pipe = shapes.load()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def request(**values):
    return replace(Request("a red circle", steps=3, height=32, width=32, frames=5, guidance_scale=4.0), **values)


def test_only_what_the_pipeline_takes(pipe):
    arguments = pipeline_arguments(pipe, request(guidance_scale=None))
    assert set(arguments) == {
        "prompt", "num_inference_steps", "height", "width", "num_frames", "generator", "output_type"
    }  # fmt: skip

    class Fixed:
        def __call__(self, prompt, num_inference_steps=2, video_length=16, generator=None): ...

    fixed = pipeline_arguments(Fixed(), Request("a", 3, frames=8))
    assert fixed.keys() == {"prompt", "num_inference_steps", "video_length", "generator"}
    with pytest.raises(SettingError, match="found height 32"):
        pipeline_arguments(Fixed(), Request("a", 3, height=32))


PIPELINES = {
    "WanPipeline": "num_frames",
    "HunyuanVideoPipeline": "num_frames",
    "CogVideoXPipeline": "num_frames",
    "LTXPipeline": "num_frames",
    "MochiPipeline": "num_frames",
    "AllegroPipeline": "num_frames",
    "LattePipeline": "video_length",
}


@pytest.mark.parametrize(("name", "length"), PIPELINES.items())
def test_the_pipelines_of_diffusers_take_these_arguments(name, length):
    import diffusers

    pipeline = object.__new__(getattr(diffusers, name))
    arguments = pipeline_arguments(pipeline, request(seed=5))
    assert arguments[length] == 5
    assert arguments["output_type"] == "np"
    assert arguments["generator"].initial_seed() == 5
    assert set(arguments) >= {"prompt", "num_inference_steps", "guidance_scale", "height", "width"}


def test_pixels_that_are_no_numbers_are_an_error(pipe, monkeypatch):
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda *args, **kwargs: (decode(*args, **kwargs)[0] * float("nan"),))
    with pytest.raises(SettingError, match="not numbers"):
        call(pipe, request())


def test_a_call_gives_frames_times_and_the_same_noise(pipe):
    seen: list[Progress] = []
    first = call(pipe, request(), "video", seen.append)
    second = call(pipe, request())
    other = call(pipe, request(seed=1))
    assert first.frames.shape == (5, 32, 32, 3)
    assert (first.frames == second.frames).all()
    assert (first.frames != other.frames).any()
    assert 0 < first.denoise_seconds < first.seconds
    sampled = [(step.done, step.total) for step in seen if step.stage == "sampling"]
    assert sampled == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [step.done for step in seen if step.stage == "decoding"] == [0, 1]


class WanTransformer3DModel(nn.Module):
    """A denoiser by name that sleeps."""

    __module__ = "diffusers.models.transformers.transformer_wan"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self):
        time.sleep(0.05)


class Sleeper:
    def __init__(self):
        self.components = {"transformer": WanTransformer3DModel(), "vae": nn.Linear(1, 1)}


def test_the_timer_counts_from_the_first_forward_to_the_last():
    sleeper = Sleeper()
    module = sleeper.components["transformer"]
    with DenoiseTimer(sleeper) as timer:
        time.sleep(0.2)
        module()
        time.sleep(0.05)
        module()
        time.sleep(0.2)
    assert timer.forwards == 2
    assert 0.149 < timer.seconds < 0.3
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_an_accelerator_without_events_is_waited_for_at_each_moment(monkeypatch):
    """It is handed its work and goes on: a forward that has returned is not over."""
    from bwcache.measure import latency

    sleeper, left = Sleeper(), []

    def finish(device):
        assert device.type == "mps"
        while left:
            time.sleep(left.pop())

    monkeypatch.setattr(latency, "computing_device", lambda pipe: torch.device("mps"))
    monkeypatch.setattr(latency, "finish_device_work", finish)
    monkeypatch.setattr(WanTransformer3DModel, "forward", lambda self: left.append(0.1))
    with DenoiseTimer(sleeper) as timer:
        sleeper.components["transformer"]()
        sleeper.components["transformer"]()
    assert 0.19 < timer.forward_seconds <= timer.seconds < 0.4


def test_the_timer_leaves_nothing_behind_after_an_error():
    sleeper = Sleeper()
    with pytest.raises(RuntimeError), DenoiseTimer(sleeper) as timer:
        raise RuntimeError
    assert timer.seconds is None
    assert not sleeper.components["transformer"]._forward_hooks


def test_the_timer_needs_a_known_denoiser():
    class Nothing:
        components = {"vae": nn.Linear(1, 1)}  # noqa: RUF012

    with pytest.raises(NoBlocksFoundError):
        DenoiseTimer(Nothing())
