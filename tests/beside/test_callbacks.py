"""`callback_on_step_end`: changes latents, embeddings or the guidance of a run in progress.

Callbacks that raise: `engine/test_restore.py`. `pipe._interrupt`: `engine/test_clock.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import bwcache
from bwcache import BWCache
from tests.beside.attached import CAREFREE, LINE, lines, plain, same
from tests.tiny import WAN, noise, wan

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


def other_latents(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """New latents at step 4."""
    return {"latents": noise(*kwargs["latents"].shape, seed=9)} if index == 4 else kwargs


def latents_in_place(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The very tensor of the pipeline is written into."""
    if index == 4:
        kwargs["latents"].mul_(0.5)
    return kwargs


def other_prompt(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Another text, of as many tokens, from step 4 on."""
    return {"prompt_embeds": noise(1, 6, 8, seed=7)} if index == 4 else {}


def fewer_tokens(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A shorter text from step 4 on."""
    shorter = {"prompt_embeds": noise(1, 3, 8, seed=7), "negative_prompt_embeds": noise(1, 3, 8, seed=8)}
    return shorter if index == 4 else {}


def no_more_guidance(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Truncated guidance: one branch from step 4 on."""
    if index == 4:
        pipe._guidance_scale = 1.0
    return {}


CALLBACKS = {
    other_latents: LINE,
    latents_in_place: LINE,
    other_prompt: "CCrrCmCrrC",  # the branch with the new prompt is computed at once
    fewer_tokens: "CCrrCCCrrC",
    no_more_guidance: LINE,
}

INPUTS = ["latents", "prompt_embeds", "negative_prompt_embeds"]


@pytest.mark.parametrize(("callback", "line"), CALLBACKS.items())
def test_a_callback_that_changes_the_run(callback: Callback, line: str) -> None:
    def run(pipe: Any) -> torch.Tensor:
        return WAN.run(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=INPUTS)

    pipe = wan()
    without = run(pipe)
    assert not torch.equal(without, plain()), "the callback changed nothing: the test shows nothing"
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        same(run(pipe), without)
    with bwcache.attach(pipe, CAREFREE) as session:
        made = run(pipe)
        same(run(pipe), made)
        steps = [trace.steps for trace in session.traces]
    assert steps == [10, 10]
    assert lines(session) == [line, line]
    assert not torch.equal(made, without)
    same(run(pipe), without)


def test_a_callback_that_makes_another_video_with_the_same_pipeline_is_told_apart() -> None:
    """A run within a run: both are computed or reused as they should, and neither sees what the other kept."""
    pipe = wan()

    def aside(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 3:
            scheduler, pipe.scheduler = pipe.scheduler, type(pipe.scheduler).from_config(pipe.scheduler.config)
            WAN.run(pipe, seed=5, num_inference_steps=4)
            pipe.scheduler = scheduler
        return kwargs

    without = WAN.run(pipe, callback_on_step_end=aside)
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        same(WAN.run(pipe, callback_on_step_end=aside), without)
    assert [trace.steps for trace in session.traces] == [4, 4, 6]
    with bwcache.attach(pipe, CAREFREE) as session:
        made = WAN.run(pipe, callback_on_step_end=aside)
        same(WAN.run(pipe, callback_on_step_end=aside), made)
    for trace in session.traces:
        first = [event for event in trace.events if event.step == trace.events[0].step]
        assert {event.action for event in first} == {"compute"}
