"""A loaded pipeline at work: told step by step, stopped in the middle, batches that are what their videos are alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import NeverReuse, Planned, Trace, shapes
from bwcache.measure.call import Request, call_together
from bwcache.report.videos import count_frames
from bwcache.serve.order import Message, Order
from bwcache.serve.pipeline import Pipeline

SIZES = (4.0, 32, 32, 5)
PROMPTS = ("a large red circle", "a small blue square moving left", "a green ring")


def order(prompt: str = PROMPTS[0], seed: int = 0, steps: int = 8, policy: Any = None, **arguments: Any) -> Order:
    return Order(Request(prompt, steps, seed, *SIZES, arguments), policy or Planned(0.04), "fast", 8)


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = shapes.load()
    found.set_progress_bar_config(disable=True)
    return found


def told(pipeline: Pipeline, *orders: Order, until: Callable[[Message], bool] | None = None) -> list[Message]:
    async def listen() -> list[Message]:
        found = []
        messages = pipeline.make(orders)
        async for message in messages:
            found.append(message)
            if until is not None and until(message):
                break
        await messages.aclose()
        return found

    return asyncio.run(asyncio.wait_for(listen(), 300))


def of(messages: list[Message], video: int = 0) -> list[str]:
    return [message.kind for message in messages if message.video == video]


def test_each_step_is_told_once_with_what_it_rests_on(pipe: Any, tmp_path: Path) -> None:
    messages = told(Pipeline(pipe), order())
    assert of(messages) == ["step"] * 8 + ["decoding", "done"]
    steps = [message.data for message in messages if message.kind == "step"]
    assert [step["step"] for step in steps] == [*range(8)]
    assert {step["total"] for step in steps} == {8}
    assert {step["rows"] for step in steps} == {2}  # guidance
    done = messages[-1]
    line = "".join({"compute": "C", "reuse": "r"}[step["action"]] for step in steps)
    assert done.data["timeline"] == line
    assert "r" in line
    assert all(step["value"] > 0 for step in steps[1:])
    assert done.data["estimated_speedup"] > 1
    assert (done.data["grade"], done.data["made_together"]) == ("fast", 1)
    for name, content in done.files.items():
        (tmp_path / name).write_bytes(content)
    assert count_frames(tmp_path / "video.mp4") == 5
    assert Trace.from_jsonl(tmp_path / "trace.jsonl").steps == 8


def test_stopped_in_the_middle_and_the_next_is_as_ever(pipe: Any) -> None:
    pipeline = Pipeline(pipe)
    whole = told(pipeline, order())[-1]
    messages = told(pipeline, order(steps=500), until=lambda message: message.kind == "step")
    assert len(messages) == 1
    again = told(pipeline, order())[-1]
    assert again.files["video.mp4"] == whole.files["video.mp4"]
    bwcache.attach(pipe).close()  # nobody holds it


@pytest.mark.parametrize("policy", [NeverReuse(), Planned(0.04), bwcache.BWCache(threshold=0.3, reuse_interval=2)])
def test_a_video_of_a_batch_is_what_it_is_alone(pipe: Any, policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps for the same reasons; pixels to what sums in another order come to, on a CPU."""
    videos: list[Any] = []

    def keep(*arguments: Any, **settings: Any) -> Any:
        found = call_together(*arguments, **settings)
        videos.append([one.frames for one in found])
        return found

    monkeypatch.setattr("bwcache.serve.pipeline.call_together", keep)
    pipeline = Pipeline(pipe)
    orders = [
        order(prompt, seed, 10, policy, negative_prompt=text)
        for prompt, seed, text in zip(PROMPTS, (0, 5, 7), ("", "blurry", ""), strict=True)
    ]
    together = told(pipeline, *orders)
    alone = [told(pipeline, one) for one in orders]
    assert len(videos) == 4
    for place, (theirs, own) in enumerate(zip(videos[0], videos[1:], strict=True)):
        np.testing.assert_allclose(theirs, own[0], rtol=0, atol=2e-5)
        mine = [message.data for message in together if message.video == place and message.kind == "step"]
        apart = [message.data for message in alone[place] if message.kind == "step"]
        assert [(step["action"], step["reason"].partition(" (")[0]) for step in mine] == [
            (step["action"], step["reason"].partition(" (")[0]) for step in apart
        ]
        done = next(message for message in together if message.video == place and message.kind == "done")
        assert done.data["made_together"] == 3
        assert done.data["timeline"] == alone[place][-1].data["timeline"]


def test_one_that_cannot_be_made_does_not_spoil_the_others(pipe: Any) -> None:
    bad = Order(Request("a ball", 8, 0, 4.0, 33, 32, 5), Planned(0.04))
    messages = told(Pipeline(pipe), bad)
    assert of(messages) == ["failed"]
    assert messages[0].data["error"].startswith("found arguments that WanPipeline refuses (")
    pipeline = Pipeline(pipe)
    assert of(told(pipeline, order()))[-1] == "done"
    assert asyncio.run(pipeline.fault()) is None


def test_a_batch_that_fails_is_made_one_by_one(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(pipe: Any, requests: Any, *more: Any) -> Any:
        if len(requests) > 1:
            raise torch.OutOfMemoryError("no room for two")
        return call_together(pipe, requests, *more)

    monkeypatch.setattr("bwcache.serve.pipeline.call_together", full)
    messages = told(Pipeline(pipe), order(), order(PROMPTS[1]))
    for video in (0, 1):
        assert of(messages, video) == ["again"] + ["step"] * 8 + ["decoding", "done"]
    assert messages[0].data["reason"] == "the batch failed (no room for two): made one by one"


def test_a_sampler_that_draws_from_the_global_generators_is_not_batched(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = type(pipe.scheduler).step

    def stochastic(self: Any, *arguments: Any, **settings: Any) -> Any:
        torch.rand(1)
        return usual(self, *arguments, **settings)

    monkeypatch.setattr(type(pipe.scheduler), "step", stochastic)
    pipeline = Pipeline(pipe)
    messages = told(pipeline, order(), order(PROMPTS[1]))
    assert of(messages, 1) == ["step"] * 8 + ["decoding", "again"] + ["step"] * 8 + ["decoding", "done"]
    messages = told(pipeline, order(), order(PROMPTS[1]))  # by now it is known
    assert of(messages, 1) == ["step"] * 8 + ["decoding", "done"]
    assert messages[-1].data["made_together"] == 1


def test_a_fault_of_the_pipeline_fails_the_video_and_the_device_is_looked_at(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **settings: Any) -> Any:
        raise RuntimeError("device-side\nassert")

    monkeypatch.setattr("bwcache.serve.pipeline.call_together", broken)
    pipeline = Pipeline(pipe)
    (message,) = told(pipeline, order())
    assert message.data == {"error": "RuntimeError: device-side assert"}
    assert asyncio.run(pipeline.fault()) is None
    monkeypatch.setattr("bwcache.serve.pipeline.torch.zeros", broken)
    told(pipeline, order())
    assert asyncio.run(pipeline.fault()) == "device cpu does not answer any more (device-side assert)"
