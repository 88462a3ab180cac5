"""Open-Sora gives the mask of a batch's texts once, and the latents twice: such a batch is not cut into its samples."""

import pytest
import torch

import bwcache
from tests.tiny import Scripted, noise
from tests.zoo import native

STEPS = 4


def two_prompts(share):
    """As `RFLOW.sample` calls the model: latents and texts `[2 + 2, …]` for guidance, mask and sizes `[2]`."""
    latents, texts = noise(2, native.C, native.FRAMES, native.HEIGHT, native.HEIGHT), noise(4, 1, native.TEXT, native.C)
    return {
        "x": torch.cat([latents, latents]),
        "timestep": torch.full((4,), 1000 * (1 - share)),
        "y": texts,
        "mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        "fps": torch.tensor([24.0]),
        "height": torch.tensor([32.0, 32.0]),
        "width": torch.tensor([32.0, 32.0]),
    }


@pytest.mark.parametrize("kind", [native.STDiT3, native.VideoSysSTDiT3])
def test_a_batch_of_two_prompts_decides_as_one(kind):
    module = native.seeded(kind)
    with bwcache.attach(module, Scripted(frozenset({2})), steps=STEPS) as session, torch.no_grad():
        for i in range(STEPS):
            module(**two_prompts(i / STEPS))
    assert [(event.step, event.sample, event.action) for event in session.trace.events] == [
        (i, None, "reuse" if i == 2 else "compute") for i in range(STEPS)
    ]
