"""SkyReels-V2."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SkyReelsV2Transformer3DModel

from zoo.kinds import Model, noise
from zoo.wan import IMAGE, TEXT, scalar_time, wan_inputs, wan_like


def skyreels(**changes: Any) -> Any:
    return wan_like(SkyReelsV2Transformer3DModel, **changes)


def _forced(share: float) -> dict[str, Any]:
    """Diffusion forcing: a time of its own for each frame; the first one is given."""
    time = torch.tensor([[0.0, 1000 * (1 - share)]])
    return {**wan_inputs(time), "enable_diffusion_forcing": True, "fps": [1]}


MODELS = (
    Model(
        "SkyReelsV2Transformer3DModel",
        skyreels,
        lambda share: wan_inputs(scalar_time(share)),
        guidance="separate",
    ),
    Model(
        "SkyReelsV2Transformer3DModel I2V",
        lambda: skyreels(in_channels=12, **IMAGE),
        lambda share: {
            **wan_inputs(scalar_time(share), 12, TEXT),
            "encoder_hidden_states_image": noise(1, 5, 8, seed=2),
        },
        guidance="separate",
    ),
    Model(
        "SkyReelsV2Transformer3DModel DF",
        lambda: skyreels(inject_sample_info=True),
        _forced,
        guidance="separate",
    ),
    # frames in causal blocks: an attention mask
    Model(
        "SkyReelsV2Transformer3DModel causal",
        lambda: skyreels(num_frame_per_block=2),
        lambda share: {
            **wan_inputs(torch.tensor([[1000 * (1 - share)] * 2 + [1000 * (1 - share / 2)] * 2])),
            "hidden_states": noise(1, 4, 4, 4, 4),
            "enable_diffusion_forcing": True,
        },
        guidance="separate",
    ),
)
