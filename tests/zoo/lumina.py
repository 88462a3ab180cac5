"""Lumina-Next, Lumina-Image 2, Z-Image and OmniGen."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OmniGenTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from torch import Tensor

from zoo.flux import BLIND, SIZE, euler, prompts, vae
from zoo.kinds import Model, Pipeline, noise, seeded


def rising_time(share: float, batch: int = 1) -> Tensor:
    """[batch], from 0 to 1."""
    return torch.full((batch,), share)


def lumina() -> Any:
    return seeded(
        lambda: LuminaNextDiT2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=32,
            num_layers=3,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            learn_sigma=True,
            cross_attention_dim=8,
        )
    )


def _lumina_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 4, 8, 8).repeat(2, 1, 1, 1),
        "timestep": rising_time(share, 2),
        "encoder_hidden_states": noise(2, 6, 8, seed=1),
        "encoder_mask": torch.ones(2, 6),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(16, 16, 16),
        "cross_attention_kwargs": {},
    }


def lumina2() -> Any:
    return seeded(
        lambda: Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=32,
            num_layers=3,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(64, 32, 32),
            cap_feat_dim=8,
        )
    )


def _lumina2_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 4, 8, 8),
        "timestep": rising_time(share),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]], dtype=torch.bool),
    }


def z_image(**changes: Any) -> Any:
    """Padded tokens are trained ones, and not initialised."""
    config = {
        "in_channels": 4,
        "dim": 32,
        "n_layers": 3,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 8,
        "axes_dims": [4, 6, 6],
        "axes_lens": [256, 64, 64],
    }

    def build() -> ZImageTransformer2DModel:
        module = ZImageTransformer2DModel(**{**config, **changes})
        for name, parameter in module.named_parameters():
            if name.endswith("pad_token"):
                torch.nn.init.normal_(parameter)
        return module

    return seeded(build)


def _z_image_inputs(share: float) -> dict[str, Any]:
    """[cond; uncond], as lists of images and of prompts."""
    return {
        "x": [noise(4, 1, 8, 8)] * 2,
        "t": rising_time(share, 2),
        "cap_feats": [noise(6, 8, seed=1), noise(4, 8, seed=2)],
        "return_dict": False,
    }


def _z_image_omni(share: float) -> dict[str, Any]:
    """A given image before the one to be made, and what was seen in it."""
    texts = [[noise(6, 8, seed=i), noise(3, 8, seed=20 + i), noise(2, 8, seed=30 + i)] for i in (1, 2)]
    return {
        "x": [[noise(4, 1, 8, 8, seed=3), noise(4, 1, 8, 8)]] * 2,
        "t": rising_time(share, 2),
        "cap_feats": texts,
        "siglip_feats": [[noise(2, 2, 8, seed=4), None]] * 2,
        "image_noise_mask": [[0, 1]] * 2,
        "return_dict": False,
    }


def omnigen() -> Any:
    return seeded(
        lambda: OmniGenTransformer2DModel(
            in_channels=4,
            hidden_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=32,
            num_layers=3,
            pad_token_id=0,
            vocab_size=100,
            pos_embed_max_size=16,
            time_step_dim=16,
            rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
        )
    )


def _omnigen_inputs(share: float) -> dict[str, Any]:
    """[cond; uncond]: 6 tokens of text, one of the time, 4 x 4 of the image."""
    return {
        "hidden_states": noise(1, 4, 8, 8).repeat(2, 1, 1, 1),
        "timestep": rising_time(share, 2),
        "input_ids": torch.arange(12).view(2, 6),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": torch.ones(2, 23, 23),
        "position_ids": torch.arange(23).repeat(2, 1),
    }


MODELS = (
    Model("LuminaNextDiT2DModel", lumina, _lumina_inputs, guidance="batched"),
    Model("Lumina2Transformer2DModel", lumina2, _lumina2_inputs, guidance="separate"),
    Model("ZImageTransformer2DModel", z_image, _z_image_inputs, guidance="batched"),
    Model(
        "ZImageTransformer2DModel ControlNet",
        z_image,
        lambda share: {
            **_z_image_inputs(share),
            "controlnet_block_samples": {0: noise(2, 64, 32), 2: noise(2, 64, 32)},
        },
        guidance="batched",
    ),
    Model("ZImageTransformer2DModel omni", lambda: z_image(siglip_feat_dim=8), _z_image_omni, guidance="batched"),
    Model("OmniGenTransformer2DModel", omnigen, _omnigen_inputs, guidance="batched"),
)


def lumina_pipeline() -> LuminaPipeline:
    return LuminaPipeline(**BLIND, transformer=lumina(), vae=None, scheduler=euler())


def lumina2_pipeline() -> Lumina2Pipeline:
    return Lumina2Pipeline(**BLIND, transformer=lumina2(), vae=None, scheduler=euler())


def z_image_pipeline() -> ZImagePipeline:
    return ZImagePipeline(**BLIND, transformer=z_image(), vae=vae(4), scheduler=euler())


_SIZE = {"height": 64, "width": 64}
_MASKS = {f"{which}prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool) for which in ("", "negative_")}
_LUMINA = {**_SIZE, **prompts(), **_MASKS}
_LISTS = {**SIZE, **{name: [embeds[0]] for name, embeds in prompts().items()}}

PIPELINES = (
    Pipeline("LuminaPipeline", lumina_pipeline, {**_LUMINA, "negative_prompt": None}, ("call0",)),
    Pipeline("Lumina2Pipeline", lumina2_pipeline, _LUMINA, ("call0", "call1")),
    Pipeline("ZImagePipeline", z_image_pipeline, _LISTS, ("call0",)),
    # without guidance from the middle on: the batch has one half only
    Pipeline("ZImagePipeline truncated", z_image_pipeline, {**_LISTS, "cfg_truncation": 0.5}, ("call0",)),
)

SPECIAL = (
    # Without guidance from the middle on: the second forward of a step is gone.
    Pipeline("Lumina2Pipeline truncated", lumina2_pipeline, {**_LUMINA, "cfg_trunc_ratio": 0.5}, ("call0", "call1")),
)
