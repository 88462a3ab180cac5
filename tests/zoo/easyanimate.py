"""EasyAnimate 5.1."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import EasyAnimateTransformer3DModel

from zoo.kinds import Model, noise, seeded


def easyanimate_transformer(channels: int = 4) -> Any:
    return seeded(
        lambda: EasyAnimateTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=channels,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=16,
            num_layers=4,
            mmdit_layers=2,
            patch_size=2,
        )
    )


def _inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(2, 4, 2, 4, 4),
        "timestep": torch.full((2,), 1000 * (1 - share)),
        "encoder_hidden_states": noise(2, 6, 16, seed=1),
    }


MODELS = (
    Model("EasyAnimateTransformer3DModel", easyanimate_transformer, _inputs, guidance="batched"),
    Model(
        "EasyAnimateTransformer3DModel inpaint",
        lambda: easyanimate_transformer(9),
        lambda share: {**_inputs(share), "inpaint_latents": noise(2, 5, 2, 4, 4, seed=2)},
        guidance="batched",
    ),
    Model(
        "EasyAnimateTransformer3DModel control",
        lambda: easyanimate_transformer(8),
        lambda share: {**_inputs(share), "control_latents": noise(2, 4, 2, 4, 4, seed=2)},
        guidance="batched",
    ),
)
