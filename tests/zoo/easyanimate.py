"""EasyAnimate 5.1."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimateControlPipeline,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)

from tests.zoo.kinds import Model, Pipeline, noise, seeded


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


def easyanimate(pipeline: type = EasyAnimatePipeline, channels: int = 4) -> Any:
    vae = seeded(
        lambda: AutoencoderKLMagvit(
            latent_channels=4,
            block_out_channels=[8, 8, 8, 8],
            layers_per_block=1,
            norm_num_groups=2,
            spatial_group_norm=False,
        )
    )
    vae.register_to_config(cache_mag_vae=True)  # inpainting asks for this setting, which the autoencoder has not
    return pipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=easyanimate_transformer(channels),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def easyanimate_control() -> EasyAnimateControlPipeline:
    """In diffusers 0.42.1 it calls its own `encode_prompt` with an argument too many."""
    pipe = easyanimate(EasyAnimateControlPipeline, 12)
    inner = pipe.encode_prompt
    pipe.encode_prompt = lambda text_encoder_index, **given: inner(**given)
    return pipe


_CALL = {
    "height": 32,
    "width": 32,
    "num_frames": 5,
    "guidance_scale": 5.0,
    "prompt_embeds": noise(1, 6, 16, seed=1),
    "negative_prompt_embeds": noise(1, 6, 16, seed=2),
    "prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
    "negative_prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
}

_VIDEO = noise(1, 3, 5, 32, 32, seed=5).sigmoid()
_MASK = torch.cat([torch.zeros(1, 1, 1, 32, 32), torch.full((1, 1, 4, 32, 32), 255.0)], dim=2)

PIPELINES = (
    Pipeline("EasyAnimatePipeline", easyanimate, _CALL, ("call0",)),
    # the first frame is given
    Pipeline(
        "EasyAnimateInpaintPipeline",
        lambda: easyanimate(EasyAnimateInpaintPipeline, 9),
        {**_CALL, "video": _VIDEO, "mask_video": _MASK},
        ("call0",),
    ),
    Pipeline(
        "EasyAnimateControlPipeline",
        easyanimate_control,
        {**_CALL, "control_video": _VIDEO},
        ("call0",),
    ),
)
