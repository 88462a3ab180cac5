"""Hunyuan Image 2.1 and its refiner."""

from __future__ import annotations

from typing import Any

import torch

from tests.newer import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImageRefiner,
    HunyuanImagePipeline,
    HunyuanImageRefinerPipeline,
    HunyuanImageTransformer2DModel,
)
from tests.zoo.flux import BLIND, euler, picture, prompts, time
from tests.zoo.kinds import Model, Pipeline, noise, seeded


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


def hunyuan_image_pipeline(transformer: Any, guider: Any = None) -> HunyuanImagePipeline:
    others = {"text_encoder_2": None, "tokenizer_2": None, "vae": None}
    return HunyuanImagePipeline(**BLIND, **others, transformer=transformer, guider=guider, scheduler=euler())


def refiner_pipeline() -> HunyuanImageRefinerPipeline:
    vae = seeded(
        lambda: AutoencoderKLHunyuanImageRefiner(
            latent_channels=2,  # of two frames each
            block_out_channels=(8, 8),
            layers_per_block=1,
            spatial_compression_ratio=2,
            temporal_compression_ratio=1,
        )
    )
    guider = AdaptiveProjectedMixGuidance()
    return HunyuanImageRefinerPipeline(**BLIND, vae=vae, transformer=refiner(), guider=guider, scheduler=euler())


_MASKS = {f"{which}prompt_embeds_mask": torch.ones(1, 6) for which in ("", "negative_")}
_BOTH = {
    "height": 128,
    "width": 128,
    **prompts(),
    **_MASKS,
    **{f"{name}_2": embeds for name, embeds in prompts(4).items()},
    **{f"{name}_2": mask[:, :4] for name, mask in _MASKS.items()},
}
_GUIDED = ("pred_cond", "pred_uncond")

PIPELINES = (
    Pipeline(
        "HunyuanImagePipeline",
        lambda: hunyuan_image_pipeline(hunyuan_image(), AdaptiveProjectedMixGuidance()),
        _BOTH,
        _GUIDED,
    ),
    Pipeline(
        "HunyuanImagePipeline distilled",
        lambda: hunyuan_image_pipeline(hunyuan_image(guidance_embeds=True, use_meanflow=True)),
        {name: value for name, value in _BOTH.items() if not name.startswith("negative_")},
        ("pred_cond",),
    ),
    Pipeline(
        "HunyuanImageRefinerPipeline",
        refiner_pipeline,
        {"height": 16, "width": 16, "image": picture(), **prompts(), **_MASKS},
        _GUIDED,
    ),
)
