"""Hunyuan Image 2.1 and its refiner."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanImageTransformer2DModel

from zoo.flux import time
from zoo.kinds import Model, noise, seeded


def hunyuan_image(**changes: Any) -> Any:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "num_single_layers": 3,
        "num_refiner_layers": 1,
        "text_embed_dim": 8,
        "text_embed_2_dim": 8,
        "rope_axes_dim": (8, 8),
    }
    return seeded(lambda: HunyuanImageTransformer2DModel(**{**config, **changes}))


def _inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 4, 4, 4),
        "timestep": time(share),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]),
        "encoder_hidden_states_2": noise(1, 4, 8, seed=2),
        "encoder_attention_mask_2": torch.tensor([[1, 1, 0, 0]]),
    }


def _distilled(share: float) -> dict[str, Any]:
    return {**_inputs(share), "timestep_r": time(share + 0.1), "guidance": torch.tensor([3250.0])}


def refiner() -> Any:
    return hunyuan_image(
        in_channels=8, patch_size=(1, 1, 1), text_embed_2_dim=None, rope_axes_dim=(4, 6, 6), guidance_embeds=True
    )


def _refined(share: float) -> dict[str, Any]:
    """The image to be made and the one given, side by side in the channels; one frame."""
    return {
        "hidden_states": noise(1, 8, 1, 4, 4),
        "timestep": time(share),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.ones(1, 6),
        "guidance": torch.tensor([3250.0]),
    }


MODELS = (
    Model("HunyuanImageTransformer2DModel", hunyuan_image, _inputs, guidance="separate"),
    Model(
        "HunyuanImageTransformer2DModel distilled",
        lambda: hunyuan_image(guidance_embeds=True, use_meanflow=True),
        _distilled,
        guidance="none",
    ),
    Model("HunyuanImageTransformer2DModel refiner", refiner, _refined, guidance="separate"),
)
