"""Stable Diffusion 3 and AuraFlow."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
)

from tests.zoo.flux import BLIND, SIZE, euler, prompts, time, unit_time, vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded


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


def sd3_pipeline(kind: type = StableDiffusion3Pipeline, **changes: Any) -> Any:
    others = {f"{name}_{i}": None for name in BLIND for i in (2, 3)}
    parts = {**BLIND, **others, "transformer": sd3(), "vae": vae(4), "scheduler": euler()}
    return kind(**{**parts, **changes})


def auraflow_pipeline() -> AuraFlowPipeline:
    return AuraFlowPipeline(**BLIND, transformer=auraflow(), vae=vae(4), scheduler=euler())


SD3 = {
    **SIZE,
    **prompts(),
    "pooled_prompt_embeds": noise(1, 8, seed=3),
    "negative_pooled_prompt_embeds": noise(1, 8, seed=4),
}
_MASKS = {f"{which}prompt_attention_mask": torch.ones(1, 6, dtype=torch.long) for which in ("", "negative_")}

PIPELINES = (
    Pipeline("StableDiffusion3Pipeline", sd3_pipeline, SD3, ("call0",)),
    # a batch of three: uncond, cond, and cond without attention between the image's tokens in one layer
    Pipeline(
        "StableDiffusion3PAGPipeline",
        lambda: sd3_pipeline(StableDiffusion3PAGPipeline, pag_applied_layers=["blocks.1"]),
        {**SD3, "pag_scale": 2.0},
        ("call0",),
    ),
    Pipeline("AuraFlowPipeline", auraflow_pipeline, {**SIZE, **prompts(), **_MASKS}, ("call0",)),
)

SPECIAL = (
    # A second forward in steps 1 to 3, in which a block is not called.
    Pipeline(
        "StableDiffusion3Pipeline skipped layers",
        sd3_pipeline,
        {**SD3, "skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.4},
        ("call0", "call1"),
    ),
)
