"""Stable Diffusion 3 and AuraFlow."""

from __future__ import annotations

from typing import Any

from diffusers import AuraFlowTransformer2DModel, SD3Transformer2DModel

from zoo.flux import time, unit_time
from zoo.kinds import Model, noise, seeded


def sd3(**changes: Any) -> Any:
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 4,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 8,
        "pos_embed_max_size": 8,
    }
    return seeded(lambda: SD3Transformer2DModel(**{**config, **changes}))


def _sd3_inputs(share: float, batch: int = 2) -> dict[str, Any]:
    """[uncond; cond], 4 x 4 tokens and 6 of text."""
    return {
        "hidden_states": noise(1, 4, 8, 8).repeat(batch, 1, 1, 1),
        "timestep": time(share, batch),
        "encoder_hidden_states": noise(batch, 6, 8, seed=1),
        "pooled_projections": noise(batch, 8, seed=2),
    }


def auraflow() -> Any:
    return seeded(
        lambda: AuraFlowTransformer2DModel(
            sample_size=8,
            in_channels=4,
            num_mmdit_layers=3,
            num_single_dit_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            caption_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=64,
        )
    )


def _auraflow_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 4, 8, 8).repeat(2, 1, 1, 1),
        "timestep": unit_time(share, 2),
        "encoder_hidden_states": noise(2, 6, 8, seed=1),
    }


MODELS = (
    Model("SD3Transformer2DModel", sd3, _sd3_inputs, guidance="batched"),
    Model(
        "SD3Transformer2DModel 3.5",
        lambda: sd3(dual_attention_layers=(0, 1), qk_norm="rms_norm"),
        _sd3_inputs,
        guidance="batched",
    ),
    Model(
        "SD3Transformer2DModel ControlNet",
        sd3,
        lambda share: {**_sd3_inputs(share), "block_controlnet_hidden_states": [noise(2, 16, 32, seed=5)] * 2},
        guidance="batched",
    ),
    Model("AuraFlowTransformer2DModel", auraflow, _auraflow_inputs, guidance="batched"),
)
