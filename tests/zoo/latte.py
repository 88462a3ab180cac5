"""Latte."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

from tests.zoo.kinds import Model, Pipeline, noise, seeded


def latte_transformer() -> Any:
    return seeded(
        lambda: LatteTransformer3DModel(
            sample_size=8,
            num_layers=3,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=16,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            video_length=2,
        )
    )


MODELS = (
    Model(
        "LatteTransformer3DModel",
        latte_transformer,
        lambda share: {
            "hidden_states": noise(2, 4, 2, 8, 8),
            "timestep": torch.full((2,), round(1000 * (1 - share)) - 1),
            "encoder_hidden_states": noise(2, 6, 16, seed=1),
            "enable_temporal_attentions": True,
        },
        guidance="batched",
    ),
)


def latte() -> LattePipeline:
    vae = seeded(
        lambda: AutoencoderKL(
            block_out_channels=(8,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            norm_num_groups=4,
            latent_channels=4,
        )
    )
    return LattePipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=latte_transformer(), scheduler=DDIMScheduler()
    )


PIPELINES = (
    Pipeline(
        "LattePipeline",
        latte,
        {
            "height": 8,
            "width": 8,
            "video_length": 2,
            "guidance_scale": 7.5,
            "negative_prompt": None,
            "clean_caption": False,
            "mask_feature": False,
            "prompt_embeds": noise(1, 6, 16, seed=1),
            "negative_prompt_embeds": noise(1, 6, 16, seed=2),
        },
        ("call0",),
    ),
)
