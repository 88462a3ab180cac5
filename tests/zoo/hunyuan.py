"""Hunyuan Video, its Framepack, and Hunyuan Video 1.5."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoTransformer3DModel,
)

from zoo.kinds import Model, noise, seeded

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
