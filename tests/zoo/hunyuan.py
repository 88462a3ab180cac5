"""Hunyuan Video, its Framepack, and Hunyuan Video 1.5."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from tests.newer import (
    AutoencoderKLHunyuanVideo15,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from tests.zoo.kinds import Model, Pipeline, noise, seeded
from tests.zoo.wan import BLIND, pictures

_CONFIG = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 3,
    "num_single_layers": 3,
    "num_refiner_layers": 1,
    "patch_size": 1,
    "patch_size_t": 1,
    "guidance_embeds": True,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 4, 4),
}


def hunyuan_transformer(**changes: Any) -> Any:
    return seeded(lambda: HunyuanVideoTransformer3DModel(**{**_CONFIG, **changes}))


def framepack_transformer() -> Any:
    changes = {"patch_size": 2, "has_image_proj": True, "image_proj_dim": 8, "has_clean_x_embedder": True}
    return seeded(lambda: HunyuanVideoFramepackTransformer3DModel(**{**_CONFIG, **changes}))


def hunyuan15_transformer(**changes: Any) -> Any:
    config = {key: _CONFIG[key] for key in _CONFIG if "single" not in key and key not in ("guidance_embeds",)}
    del config["pooled_projection_dim"]
    more = {"in_channels": 9, "text_embed_2_dim": 6, "image_embed_dim": 8, "target_size": 16}
    return seeded(lambda: HunyuanVideo15Transformer3DModel(**{**config, **more, **changes}))


def _inputs(share: float, channels: int = 4) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, channels, 2, 4, 4),
        "timestep": torch.tensor([1000 * (1 - share)]),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "encoder_attention_mask": torch.tensor([[1.0, 1, 1, 1, 0, 0]]),
        "pooled_projections": noise(1, 8, seed=2),
        "guidance": torch.tensor([6000.0]),
    }


def _framepack_inputs(share: float) -> dict[str, Any]:
    """Two frames; before them the history at three scales: 2, 2 and 4 frames."""
    return {
        **_inputs(share),
        "image_embeds": noise(1, 3, 8, seed=3),
        "indices_latents": torch.arange(9, 11),
        "latents_clean": noise(1, 4, 2, 4, 4, seed=4),
        "indices_latents_clean": torch.tensor([0, 11]),
        "latents_history_2x": noise(1, 4, 2, 4, 4, seed=5),
        "indices_latents_history_2x": torch.tensor([12, 13]),
        "latents_history_4x": noise(1, 4, 4, 4, 4, seed=6),
        "indices_latents_history_4x": torch.arange(14, 18),
    }


def _inputs15(share: float, image: float = 1.0) -> dict[str, Any]:
    """Latents, those of the given frame and their mask; two texts and a picture."""
    return {
        "hidden_states": noise(1, 9, 2, 4, 4),
        "timestep": torch.tensor([1000 * (1 - share)]),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "encoder_hidden_states_2": noise(1, 4, 6, seed=2),
        "encoder_attention_mask_2": torch.tensor([[1, 1, 0, 0]]),
        "image_embeds": noise(1, 3, 8, seed=3) * image,
    }


MODELS = (
    Model("HunyuanVideoTransformer3DModel", hunyuan_transformer, _inputs, guidance="separate"),
    # the picture in further channels, as SkyReels has it too; not distilled
    Model(
        "HunyuanVideoTransformer3DModel I2V",
        lambda: hunyuan_transformer(in_channels=9, guidance_embeds=False, image_condition_type="latent_concat"),
        lambda share: {**_inputs(share, 9), "guidance": None},
        guidance="separate",
    ),
    # the picture in the place of the first frame: its tokens have the time 0 inside of the blocks
    Model(
        "HunyuanVideoTransformer3DModel token replace",
        lambda: hunyuan_transformer(image_condition_type="token_replace"),
        _inputs,
        guidance="separate",
    ),
    Model("HunyuanVideoFramepackTransformer3DModel", framepack_transformer, _framepack_inputs, guidance="separate"),
    Model(
        "HunyuanVideo15Transformer3DModel",
        hunyuan15_transformer,
        lambda share: _inputs15(share, 0.0),
        guidance="separate",
    ),
    Model("HunyuanVideo15Transformer3DModel I2V", hunyuan15_transformer, _inputs15, guidance="separate"),
    # a second time to arrive at; the checkpoint is distilled to few steps
    Model(
        "HunyuanVideo15Transformer3DModel meanflow",
        lambda: hunyuan15_transformer(use_meanflow=True),
        lambda share: {**_inputs15(share), "timestep_r": torch.tensor([1000 * (1 - share) - 100])},
        guidance="none",
    ),
)


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    return seeded(
        lambda: AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        )
    )


def eyes() -> dict[str, Any]:
    """What reads a picture: four tokens of width 8."""
    config = SiglipVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    return {"image_encoder": seeded(lambda: SiglipVisionModel(config)), "feature_extractor": processor}


_BLIND = {**BLIND, "tokenizer_2": None, "text_encoder_2": None}


def hunyuan(pipeline: type, transformer: Any, **more: Any) -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return pipeline(**_BLIND, vae=hunyuan_vae(), transformer=transformer, scheduler=scheduler, **more)


def replacing() -> HunyuanVideoImageToVideoPipeline:
    transformer = hunyuan_transformer(image_condition_type="token_replace")
    return hunyuan(HunyuanVideoImageToVideoPipeline, transformer, image_processor=None)


def concatenating() -> HunyuanVideoImageToVideoPipeline:
    transformer = hunyuan_transformer(in_channels=9, guidance_embeds=False, image_condition_type="latent_concat")
    return hunyuan(HunyuanVideoImageToVideoPipeline, transformer, image_processor=None)


def skyreels1() -> HunyuanSkyreelsImageToVideoPipeline:
    return hunyuan(HunyuanSkyreelsImageToVideoPipeline, hunyuan_transformer(in_channels=8, guidance_embeds=False))


def framepack() -> HunyuanVideoFramepackPipeline:
    return hunyuan(HunyuanVideoFramepackPipeline, framepack_transformer(), **eyes())


def hunyuan15(pipeline: type = HunyuanVideo15Pipeline, **more: Any) -> Any:
    vae = seeded(
        lambda: AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(16, 16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
            downsample_match_channel=False,
            upsample_match_channel=False,
        )
    )
    return pipeline(
        **_BLIND,
        vae=vae,
        transformer=hunyuan15_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
        **more,
    )


_SIZE = {"height": 32, "width": 32, "num_frames": 5}
_DISTILLED = {
    **_SIZE,
    "prompt_embeds": noise(1, 8, 16, seed=1),
    "pooled_prompt_embeds": noise(1, 8, seed=3),
    "prompt_attention_mask": torch.ones(1, 8),
}
_GUIDED = {
    **_DISTILLED,
    "true_cfg_scale": 6.0,
    "negative_prompt_embeds": noise(1, 8, 16, seed=2),
    "negative_pooled_prompt_embeds": noise(1, 8, seed=4),
    "negative_prompt_attention_mask": torch.ones(1, 8),
}
_CALL15 = {
    key: value
    for i, sign in enumerate(("", "negative_"))
    for key, value in {
        f"{sign}prompt_embeds": noise(1, 6, 16, seed=1 + i),
        f"{sign}prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        f"{sign}prompt_embeds_2": noise(1, 4, 6, seed=3 + i),
        f"{sign}prompt_embeds_mask_2": torch.tensor([[1, 1, 0, 0]]),
    }.items()
}
_TWICE = ("call0", "call1")

PIPELINES = (
    Pipeline("HunyuanVideoImageToVideoPipeline", replacing, {**_DISTILLED, "image": pictures(1)[0]}, ("call0",)),
    Pipeline("HunyuanVideoImageToVideoPipeline concat", concatenating, {**_GUIDED, "image": pictures(1)[0]}, _TWICE),
    Pipeline("HunyuanSkyreelsImageToVideoPipeline", skyreels1, {**_GUIDED, "image": pictures(1)[0]}, _TWICE),
    # the latents come as a list of all sections
    Pipeline(
        "HunyuanVideoFramepackPipeline",
        framepack,
        {**_DISTILLED, "image": pictures(1)[0], "latent_window_size": 2, "output_type": "pt"},
        ("call0",),
    ),
    Pipeline(
        "HunyuanVideo15Pipeline",
        hunyuan15,
        {**_CALL15, "height": 16, "width": 16, "num_frames": 5},
        ("pred_cond", "pred_uncond"),
    ),
    Pipeline(
        "HunyuanVideo15ImageToVideoPipeline",
        lambda: hunyuan15(HunyuanVideo15ImageToVideoPipeline, **eyes()),
        {**_CALL15, "image": pictures(1)[0], "num_frames": 5},
        ("pred_cond", "pred_uncond"),
    ),
)

SPECIAL = (
    # A loop for each section, with timesteps set anew and all of the same shape: a run for each section.
    Pipeline(
        "HunyuanVideoFramepackPipeline sections",
        framepack,
        {**_DISTILLED, "num_frames": 10, "image": pictures(1)[0], "latent_window_size": 2, "output_type": "pt"},
        ("call0",),
    ),
)
