"""CogView 3 and 4 and GLM-Image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4ControlPipeline,
    CogView4Pipeline,
    CogView4Transformer2DModel,
)

from tests.newer import (
    GlmImageKVCache,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
)
from tests.zoo.flux import BLIND, SIZE, euler, picture, prompts, time, vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded

CONFIG = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "text_embed_dim": 8,
    "time_embed_dim": 16,
    "condition_dim": 4,
}


def _inputs(share: float, batch: int) -> dict[str, Any]:
    """4 x 4 tokens of the image, 6 of the text; sizes as the pipelines give them."""
    size = torch.tensor([[64.0, 64.0]]).repeat(batch, 1)
    return {
        "hidden_states": noise(1, 4, 8, 8).repeat(batch, 1, 1, 1),
        "timestep": time(share, batch),
        "encoder_hidden_states": noise(batch, 6, 8, seed=1),
        "original_size": size,
        "target_size": size,
        "crop_coords": torch.zeros(batch, 2),
    }


def cogview3() -> Any:
    return seeded(lambda: CogView3PlusTransformer2DModel(**CONFIG, pos_embed_max_size=8, sample_size=8))


def cogview4(**changes: Any) -> Any:
    return seeded(
        lambda: CogView4Transformer2DModel(
            **{**CONFIG, "pos_embed_max_size": 8, "sample_size": 8, "rope_axes_dim": (8, 8), **changes}
        )
    )


def glm() -> Any:
    return seeded(lambda: GlmImageTransformer2DModel(**CONFIG, prior_vq_quantizer_codebook_size=32))


def _glm_inputs(share: float) -> dict[str, Any]:
    """One token of the language model's image for each of the denoiser's."""
    inputs = _inputs(share, 1)
    inputs.pop("original_size")
    inputs["timestep"] = inputs["timestep"] - 1
    return {
        **inputs,
        "prior_token_id": torch.arange(16)[None],
        "prior_token_drop": torch.zeros(1, 16, dtype=torch.bool),
    }


def _glm_reading(share: float) -> dict[str, Any]:
    """The keys and values of a given image are kept, written in a forward before the first step."""
    cache = GlmImageKVCache(3)
    for i, layer in enumerate(cache.caches):
        layer.store(noise(1, 4, 2, 16, seed=i), noise(1, 4, 2, 16, seed=20 + i))
    cache.set_mode("read")
    return {**_glm_inputs(share), "kv_caches": cache}


MODELS = (
    Model("CogView3PlusTransformer2DModel", cogview3, lambda share: _inputs(share, 2), guidance="batched"),
    Model("CogView4Transformer2DModel", cogview4, lambda share: _inputs(share, 1), guidance="separate"),
    Model(
        "CogView4Transformer2DModel control",
        lambda: cogview4(in_channels=8),
        lambda share: {**_inputs(share, 1), "hidden_states": noise(1, 8, 8, 8)},
        guidance="separate",
    ),
    Model("GlmImageTransformer2DModel", glm, _glm_inputs, guidance="separate"),
    Model("GlmImageTransformer2DModel edit", glm, _glm_reading, guidance="separate"),
)


def cogview_pipeline(kind: type, transformer: Any, scheduler: Any) -> Any:
    return kind(**BLIND, transformer=transformer, vae=vae(4), scheduler=scheduler)


def glm_pipeline() -> GlmImagePipeline:
    unused = {"processor": None, "vision_language_encoder": None}
    moments: dict[str, Any] = {"latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4}
    return GlmImagePipeline(**BLIND, **unused, transformer=glm(), vae=vae(4, **moments), scheduler=euler())


_CALL = {**SIZE, **prompts()}
_GLM = {**_CALL, "prior_token_ids": torch.arange(16)[None]}

PIPELINES = (
    Pipeline(
        "CogView3PlusPipeline",
        lambda: cogview_pipeline(CogView3PlusPipeline, cogview3(), CogVideoXDDIMScheduler()),
        _CALL,
        ("call0",),
    ),
    Pipeline("CogView4Pipeline", lambda: cogview_pipeline(CogView4Pipeline, cogview4(), euler()), _CALL),
    Pipeline(
        "CogView4ControlPipeline",
        lambda: cogview_pipeline(CogView4ControlPipeline, cogview4(in_channels=8), euler()),
        {**_CALL, "control_image": picture()},
        ("call0", "call1"),
    ),
    Pipeline("GlmImagePipeline", glm_pipeline, _GLM, ("call0", "call1")),
)

SPECIAL = (
    # A forward for each given image writes its keys and values, with the time 0, before the first step: it is a run of
    # its own in the trace, of one step.
    Pipeline(
        "GlmImagePipeline edit",
        glm_pipeline,
        {
            **_GLM,
            "image": [picture()],
            "prior_token_image_ids": [torch.arange(16)],
            "source_image_grid_thw": [torch.tensor([[1, 4, 4]])],
        },
        ("call0", "call1"),
    ),
)
