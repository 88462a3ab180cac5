"""Qwen-Image and Qwen-Image 2.1."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from tests import newer
from tests.newer import (
    QwenImage21KVCache,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from tests.zoo.flux import BLIND, SIZE, euler, picture, prompts, unit_time
from tests.zoo.kinds import Model, Pipeline, noise, seeded

SHAPE = (1, 4, 4)


def qwen(**changes: Any) -> Any:
    config = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "axes_dims_rope": (4, 6, 6),
    }
    return seeded(lambda: newer.made(QwenImageTransformer2DModel, **{**config, **changes}))


def _qwen_inputs(share: float, images: int = 1) -> dict[str, Any]:
    """4 x 4 tokens of each image, the first to be made and the others given."""
    return {
        "hidden_states": noise(1, 16 * images, 16),
        "timestep": unit_time(share),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_hidden_states_mask": torch.tensor([[1, 1, 1, 1, 1, 0]], dtype=torch.bool),
        "img_shapes": [[SHAPE] * images],
    }


def qwen21(**changes: Any) -> Any:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "context_in_dim": 8,
        "axes_dims_rope": (4, 6, 6),
    }
    return seeded(lambda: QwenImage21Transformer2DModel(**{**config, **changes}))


def _qwen21_inputs(share: float) -> dict[str, Any]:
    """6 tokens of text, then 4 x 4 of the image, four to a slot."""
    return {
        "hidden_states": noise(1, 16, 4),
        "timestep": unit_time(share),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "img_shapes": [[SHAPE]],
        "img_mask": torch.tensor([[False] * 6 + [True] * 4]),
    }


def _qwen21_reading(share: float) -> dict[str, Any]:
    """After the first step: the text's keys and values are kept."""
    cache = QwenImage21KVCache(3)
    for i, layer in enumerate(cache.layer_caches):
        layer.store(noise(1, 6, 2, 16, seed=i), noise(1, 6, 2, 16, seed=20 + i))
    return {**_qwen21_inputs(share), "kv_cache": cache, "kv_cache_mode": "cached"}


MODELS = (
    Model("QwenImageTransformer2DModel", qwen, _qwen_inputs, guidance="separate"),
    Model(
        "QwenImageTransformer2DModel ControlNet",
        qwen,
        lambda share: {**_qwen_inputs(share), "controlnet_block_samples": [noise(1, 16, 32, seed=5)]},
        guidance="separate",
    ),
    # Edit Plus 2511: the given image's tokens have the time 0
    Model(
        "QwenImageTransformer2DModel edit",
        lambda: qwen(zero_cond_t=True),
        lambda share: _qwen_inputs(share, images=2),
        guidance="separate",
    ),
    Model(
        "QwenImageTransformer2DModel layered",
        lambda: qwen(use_additional_t_cond=True, use_layer3d_rope=True),
        lambda share: {**_qwen_inputs(share, images=3), "additional_t_cond": torch.tensor([0])},
        guidance="separate",
    ),
    Model("QwenImage21Transformer2DModel", qwen21, _qwen21_inputs, guidance="separate"),
    Model("QwenImage21Transformer2DModel KV", qwen21, _qwen21_reading, guidance="separate"),
)


def qwen_vae() -> Any:
    """Halves height and width."""
    return seeded(
        lambda: AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )


def qwen_pipeline(kind: type = QwenImagePipeline, transformer: Any = None, **changes: Any) -> Any:
    parts = {**BLIND, "transformer": transformer or qwen(), "vae": qwen_vae(), "scheduler": euler()}
    return kind(**{**parts, **changes})


class Speechless:
    """In the place of a processor that is only asked how long its template is, and for the number of a token."""

    @property
    def tokenizer(self) -> Speechless:
        return self

    def encode(self, text: str) -> list[int]:
        return [0]

    def apply_chat_template(self, *given: Any, **named: Any) -> list[list[int]]:
        return [[]]


def qwen21_pipeline() -> QwenImage21Pipeline:
    parts = {"processor": Speechless(), "transformer": qwen21(), "vae": None, "scheduler": euler()}
    return QwenImage21Pipeline(text_encoder=None, **parts)


_GUIDED = {**SIZE, **prompts(), "true_cfg_scale": 4.0}
_GUIDED21 = {**_GUIDED, "height": 64, "width": 64}

PIPELINES = (
    Pipeline("QwenImagePipeline", qwen_pipeline, _GUIDED),
    Pipeline(
        "QwenImageImg2ImgPipeline",
        lambda: qwen_pipeline(QwenImageImg2ImgPipeline),
        {**_GUIDED, "image": picture(), "strength": 0.8},
    ),
    # the first step keeps keys and values of the text
    Pipeline("QwenImage21Pipeline", qwen21_pipeline, _GUIDED21),
    Pipeline("QwenImage21Pipeline without KV", qwen21_pipeline, {**_GUIDED21, "use_kv_cache": False}),
)
