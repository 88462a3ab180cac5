"""Lumina-Next, Lumina-Image 2, Z-Image and OmniGen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from diffusers import (
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
)
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from diffusers.pipelines.omnigen import pipeline_omnigen
from torch import Tensor

from tests.newer import (
    ZImageControlNetInpaintPipeline,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tests.zoo.flux import BLIND, SIZE, euler, picture, prompts, vae
from tests.zoo.flux_pictures import mask
from tests.zoo.kinds import Model, Pipeline, noise, seeded, without_zeros


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


def z_image_pipeline(kind: type = ZImagePipeline, **changes: Any) -> Any:
    parts = {**BLIND, "transformer": z_image(), "vae": vae(4), "scheduler": euler()}
    return kind(**{**parts, **changes})


def z_image_controlnet(kind: type, channels: int = 4) -> Any:
    net = without_zeros(
        lambda: ZImageControlNetModel(
            control_layers_places=[0, 2],
            control_refiner_layers_places=[0],
            control_in_dim=channels,
            dim=32,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
        )
    )
    return z_image_pipeline(kind, controlnet=net)


class Seen(dict[str, Tensor]):
    """What a processor makes of a picture: here nothing but its size in tokens."""

    spatial_shapes = ((2, 2),)

    def to(self, device: Any) -> Seen:
        return self


def z_image_omni_pipeline() -> ZImageOmniPipeline:
    """What would look at the given picture has seen four tokens."""
    pipe = z_image_pipeline(
        ZImageOmniPipeline,
        transformer=z_image(siglip_feat_dim=8),
        vae=vae(4).bfloat16(),
        siglip=lambda: SimpleNamespace(last_hidden_state=noise(1, 4, 8, seed=4)),
        siglip_processor=lambda **given: Seen(),
    )

    def encode_prompt(num_condition_images: int, **given: Any) -> tuple[Any, Any]:
        lengths = [6, *[3] * num_condition_images, 2]
        texts = [[noise(n, 8, seed=10 * k + i) for i, n in enumerate(lengths)] for k in (1, 2)]
        return [texts[0]], [texts[1]]

    pipe.encode_prompt = encode_prompt
    return pipe


class Worded:
    """In the place of OmniGen's processor, which would need torchvision: the prompt as numbers, without and with."""

    def __init__(self, tokenizer: None, max_image_size: int) -> None:
        self.max_image_size = max_image_size

    def __call__(self, prompt: list[str], images: None, **given: Any) -> dict[str, Any]:
        inputs = _omnigen_inputs(0.0)
        said = {key: inputs[key] for key in ("input_ids", "attention_mask", "position_ids", "input_image_sizes")}
        return {**said, "input_pixel_values": []}


def omnigen_pipeline() -> OmniGenPipeline:
    with mock.patch.object(pipeline_omnigen, "OmniGenMultiModalProcessor", Worded, create=True):
        return OmniGenPipeline(omnigen(), euler(), vae(4), None)


_SIZE = {"height": 64, "width": 64}
_MASKS = {f"{which}prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool) for which in ("", "negative_")}
_LUMINA = {**_SIZE, **prompts(), **_MASKS}
_LISTS = {**SIZE, **{name: [embeds[0]] for name, embeds in prompts().items()}}

PIPELINES = (
    Pipeline("LuminaPipeline", lumina_pipeline, {**_LUMINA, "negative_prompt": None}, ("call0",)),
    Pipeline("Lumina2Pipeline", lumina2_pipeline, _LUMINA, ("call0", "call1")),
    Pipeline("ZImagePipeline", z_image_pipeline, _LISTS, ("call0",)),
    Pipeline(
        "ZImageImg2ImgPipeline",
        lambda: z_image_pipeline(ZImageImg2ImgPipeline),
        {**_LISTS, "image": picture(), "strength": 0.8},
        ("call0",),
    ),
    Pipeline(
        "ZImageInpaintPipeline",
        lambda: z_image_pipeline(ZImageInpaintPipeline),
        {**_LISTS, "image": picture(), "mask_image": mask(), "strength": 0.8},
        ("call0",),
    ),
    Pipeline(
        "ZImageControlNetPipeline",
        lambda: z_image_controlnet(ZImageControlNetPipeline),
        {**_LISTS, "control_image": picture()},
        ("call0",),
    ),
    Pipeline(
        "ZImageControlNetInpaintPipeline",
        lambda: z_image_controlnet(ZImageControlNetInpaintPipeline, channels=9),
        {**_LISTS, "control_image": picture(), "image": picture(), "mask_image": mask()},
        ("call0",),
    ),
    Pipeline("ZImageOmniPipeline", z_image_omni_pipeline, {**SIZE, "prompt": "a", "image": [picture(64)]}, ("call0",)),
    Pipeline("OmniGenPipeline", omnigen_pipeline, {**SIZE, "prompt": "a"}, ("call0",)),
    # without guidance from the middle on: the batch has one half only
    Pipeline("ZImagePipeline truncated", z_image_pipeline, {**_LISTS, "cfg_truncation": 0.5}, ("call0",)),
)

SPECIAL = (
    # Without guidance from the middle on: the second forward of a step is gone.
    Pipeline("Lumina2Pipeline truncated", lumina2_pipeline, {**_LUMINA, "cfg_trunc_ratio": 0.5}, ("call0", "call1")),
)
