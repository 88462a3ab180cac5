"""PRX, Ernie-Image, Krea 2, Ideogram 4 and Nucleus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.newer import (
    LLM_TOKEN_INDICATOR,
    OUTPUT_IMAGE_INDICATOR,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)
from tests.zoo.flux import BLIND, SIZE, euler, flux2_vae, ids, prompts, time, unit_time, vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded
from tests.zoo.lumina import rising_time
from tests.zoo.qwen import Speechless, qwen_vae


def stirred(build: Callable[[], Any]) -> Any:
    """The module that `build` makes, all its weights random: not zeros, and not memory that nobody wrote to."""

    def built() -> Any:
        module = build()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return module

    return seeded(built)


def prx(**changes: Any) -> Any:
    config = {
        "in_channels": 4,
        "context_in_dim": 8,
        "hidden_size": 32,
        "num_heads": 2,
        "depth": 3,
        "axes_dim": [8, 8],
    }
    return stirred(lambda: PRXTransformer2DModel(**{**config, **changes}))


def _prx_inputs(share: float) -> dict[str, Any]:
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    return {
        "hidden_states": noise(1, 4, 8, 8).repeat(2, 1, 1, 1),
        "timestep": unit_time(share, 2),
        "encoder_hidden_states": noise(2, 6, 8, seed=1),
        "attention_mask": mask,
    }


def ernie() -> Any:
    return stirred(
        lambda: ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=3,
            ffn_hidden_size=32,
            in_channels=4,
            out_channels=4,
            text_in_dim=8,
            rope_axes_dim=(4, 6, 6),
        )
    )


def _ernie_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 4, 4, 4).repeat(2, 1, 1, 1),
        "timestep": time(share, 2),
        "text_bth": noise(2, 6, 8, seed=1),
        "text_lens": torch.tensor([4, 6]),
    }


def krea2(in_channels: int = 4) -> Any:
    return seeded(
        lambda: Krea2Transformer2DModel(
            in_channels=in_channels,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=8,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        )
    )


def _krea2_inputs(share: float) -> dict[str, Any]:
    """Of each token of the text, the outputs of two of the language model's layers."""
    return {
        "hidden_states": noise(1, 16, 4),
        "timestep": unit_time(share),
        "encoder_hidden_states": noise(1, 6, 2, 8, seed=1),
        "position_ids": torch.cat([torch.zeros(6, 3), ids(16)]),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]], dtype=torch.bool),
    }


def ideogram4() -> Any:
    return seeded(
        lambda: Ideogram4Transformer2DModel(
            in_channels=4,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=8,
            rope_theta=10000,
            mrope_section=(4, 2, 2),
        )
    )


def _ideogram4_inputs(share: float) -> dict[str, Any]:
    """6 tokens of text, then 4 x 4 of the image; without the text in the unconditional denoiser."""
    return {
        "hidden_states": torch.cat([torch.zeros(1, 6, 4), noise(1, 16, 4)], dim=1),
        "timestep": rising_time(share),
        "encoder_hidden_states": torch.cat([noise(1, 6, 8, seed=1), torch.zeros(1, 16, 8)], dim=1),
        "position_ids": torch.cat([torch.zeros(6, 3), ids(16)]).long()[None],
        "segment_ids": torch.ones(1, 22, dtype=torch.long),
        "indicator": torch.tensor([[LLM_TOKEN_INDICATOR] * 6 + [OUTPUT_IMAGE_INDICATOR] * 16]),
    }


def nucleus(**changes: Any) -> Any:
    config = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 5,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "axes_dims_rope": (4, 6, 6),
        "num_experts": 4,
        "moe_intermediate_dim": 16,
        "capacity_factors": [2.0] * 5,
    }
    return stirred(lambda: NucleusMoEImageTransformer2DModel(**{**config, **changes}))


def _nucleus_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 16, 16),
        "timestep": unit_time(share),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "encoder_hidden_states_mask": torch.tensor([[1, 1, 1, 1, 1, 0]], dtype=torch.bool),
        "img_shapes": [(1, 4, 4)],
    }


MODELS = (
    Model("PRXTransformer2DModel", prx, _prx_inputs, guidance="batched"),
    # pixels in the place of latents
    Model(
        "PRXTransformer2DModel pixel",
        lambda: prx(in_channels=3, bottleneck_size=4, resolution_embeds=True),
        lambda share: {**_prx_inputs(share), "hidden_states": noise(1, 3, 8, 8).repeat(2, 1, 1, 1)},
        guidance="batched",
    ),
    Model("ErnieImageTransformer2DModel", ernie, _ernie_inputs, guidance="batched"),
    Model("Krea2Transformer2DModel", krea2, _krea2_inputs, guidance="separate"),
    Model("Ideogram4Transformer2DModel", ideogram4, _ideogram4_inputs, guidance="separate"),
    Model("NucleusMoEImageTransformer2DModel", nucleus, _nucleus_inputs, guidance="separate"),
)


def prx_pipeline() -> PRXPipeline:
    return PRXPipeline(**BLIND, transformer=prx(), vae=vae(4), scheduler=euler())


def prx_pixel_pipeline() -> PRXPixelPipeline:
    transformer = prx(in_channels=3, bottleneck_size=4, resolution_embeds=True)
    return PRXPixelPipeline(**BLIND, transformer=transformer, scheduler=euler())


def ernie_pipeline() -> ErnieImagePipeline:
    return ErnieImagePipeline(**BLIND, transformer=ernie(), vae=flux2_vae(), scheduler=euler())


def krea2_pipeline() -> Krea2Pipeline:
    parts = {"transformer": krea2(in_channels=16), "vae": qwen_vae(), "scheduler": euler()}
    return Krea2Pipeline(**BLIND, **parts, text_encoder_select_layers=(0, 1))


def ideogram4_pipeline() -> Ideogram4Pipeline:
    """What its text encoder says is made up."""
    pipe = Ideogram4Pipeline(
        **BLIND, transformer=ideogram4(), unconditional_transformer=ideogram4(), vae=flux2_vae(), scheduler=euler()
    )

    def encode_prompt(**given: Any) -> tuple[Any, ...]:
        inputs = _ideogram4_inputs(0.0)
        return tuple(inputs[k] for k in ("encoder_hidden_states", "position_ids", "segment_ids", "indicator"))

    pipe.encode_prompt = encode_prompt
    return pipe


def nucleus_pipeline() -> NucleusMoEImagePipeline:
    parts = {"processor": Speechless(), "transformer": nucleus(), "vae": qwen_vae(), "scheduler": euler()}
    return NucleusMoEImagePipeline(text_encoder=None, **parts)


def _masks(name: str) -> dict[str, torch.Tensor]:
    return {f"{which}{name}": torch.ones(1, 6, dtype=torch.bool) for which in ("", "negative_")}


_TWICE = ("call0", "call1")
_CALL = {**SIZE, **prompts()}

PIPELINES = (
    Pipeline(
        "PRXPipeline",
        prx_pipeline,
        {**_CALL, **_masks("prompt_attention_mask"), "use_resolution_binning": False},
        ("call0",),
    ),
    Pipeline(
        "PRXPixelPipeline",
        prx_pixel_pipeline,
        {**_CALL, **_masks("prompt_attention_mask"), "use_resolution_binning": False},
        ("call0",),
    ),
    Pipeline(
        "ErnieImagePipeline",
        ernie_pipeline,
        {**SIZE, **{name: [embeds[0]] for name, embeds in prompts().items()}},
        ("call0",),
    ),
    Pipeline(
        "Krea2Pipeline",
        krea2_pipeline,
        {
            **SIZE,
            **{name: embeds[:, :, None].repeat(1, 1, 2, 1) for name, embeds in prompts().items()},
            **_masks("prompt_embeds_mask"),
        },
        ("call0", "call1"),
    ),
    # one forward of each of two denoisers
    Pipeline(
        "Ideogram4Pipeline",
        ideogram4_pipeline,
        {**SIZE, "prompt": "a", "max_sequence_length": 6, "guidance_schedule": (7.0,) * 10},
        _TWICE,
    ),
    Pipeline(
        "NucleusMoEImagePipeline", nucleus_pipeline, {**_CALL, **_masks("prompt_embeds_mask")}, ("call0", "call1")
    ),
)
