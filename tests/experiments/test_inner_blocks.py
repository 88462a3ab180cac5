"""Reuse of a U-Net's inner blocks, as in the experiment: the outer ones run, and skip connections hold."""

from __future__ import annotations

from typing import Any

import torch

import bwcache
from bwcache import shapes
from experiments.unet import InnerBWCache, InnerInterval
from training import unet
from training.models import UNET_FRAMES

RECIPE = unet.UNetRecipe(widths=(8, 8, 8), groups=4, heads=2)
STEPS = 8


def sample(pipeline: Any) -> torch.Tensor:
    options = {"height": 32, "width": 32, "num_frames": UNET_FRAMES, "num_inference_steps": STEPS}
    generator = torch.Generator().manual_seed(0)
    return pipeline(shapes.PROMPTS[0], **options, guidance_scale=4.0, generator=generator, output_type="latent").frames


def built() -> Any:
    torch.manual_seed(0)
    pipeline = unet.make_pipeline(unet.build_unet(RECIPE))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_it_is_what_replaying_the_last_inner_block_alone_gives() -> None:
    pipeline = built()
    kept: list[torch.Tensor] = []

    def replay(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        step, tail = len(steps), len(steps) >= STEPS - 1
        steps.append(step)
        if step % 3 == 0 or tail:
            kept[:] = [output.clone()]
        return kept[0].clone()

    steps: list[int] = []
    hook = pipeline.unet.up_blocks[-2].register_forward_hook(replay)
    expected = sample(pipeline)
    hook.remove()
    assert len(steps) == STEPS

    ran = dict.fromkeys(("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.1", "up_blocks.2"), 0)
    hooks = [
        pipeline.unet.get_submodule(f"{name}.resnets.0").register_forward_hook(
            lambda *_, name=name: ran.__setitem__(name, ran[name] + 1)
        )
        for name in ran
    ]
    with bwcache.attach(pipeline, InnerInterval(3, 1, 1)):
        found = sample(pipeline)
    for one in hooks:
        one.remove()
    assert torch.equal(found, expected)
    per_step = ran["down_blocks.0"] // STEPS
    assert ran["up_blocks.2"] == per_step * STEPS
    assert {ran[name] // per_step for name in ("down_blocks.1", "mid_block", "up_blocks.1")} == {4}  # 0, 3, 6 and 7


def test_what_is_reused_is_what_is_measured() -> None:
    pipeline = built()
    with bwcache.attach(pipeline, InnerBWCache(threshold=10.0, reuse_interval=2, tail_guard=0)) as session:
        sample(pipeline)
    events = session.trace.events
    assert {event.site for event in events} == {"unet/inner"}
    assert {len(event.distances) for event in events if event.distances} == {5}
    assert sum(event.action == "reuse" for event in events) == 4
