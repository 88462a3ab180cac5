"""Stable Diffusion 3's pipelines that begin with a picture, a mask or a control."""

from __future__ import annotations

from typing import Any

from diffusers import (
    SD3ControlNetModel,
    StableDiffusion3ControlNetInpaintingPipeline,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3PAGImg2ImgPipeline,
)

from tests.zoo.flux import picture, vae
from tests.zoo.flux_pictures import mask
from tests.zoo.kinds import Pipeline, without_zeros
from tests.zoo.sd3 import SD3, sd3, sd3_pipeline


def controlled(kind: type, extra: int = 0) -> Any:
    net = without_zeros(
        lambda: SD3ControlNetModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            caption_projection_dim=32,
            pooled_projection_dim=8,
            pos_embed_max_size=8,
            extra_conditioning_channels=extra,
        )
    )
    return sd3_pipeline(kind, controlnet=net)


_GIVEN = {**SD3, "image": picture(), "strength": 0.8}
_ONE = ("call0",)

PIPELINES = (
    Pipeline("StableDiffusion3Img2ImgPipeline", lambda: sd3_pipeline(StableDiffusion3Img2ImgPipeline), _GIVEN, _ONE),
    Pipeline(
        "StableDiffusion3InpaintPipeline",
        lambda: sd3_pipeline(
            StableDiffusion3InpaintPipeline, transformer=sd3(in_channels=16, out_channels=16), vae=vae(16)
        ),
        {**_GIVEN, "mask_image": mask()},
        _ONE,
    ),
    Pipeline(
        "StableDiffusion3PAGImg2ImgPipeline",
        lambda: sd3_pipeline(StableDiffusion3PAGImg2ImgPipeline, pag_applied_layers=["blocks.1"]),
        {**_GIVEN, "pag_scale": 2.0},
        _ONE,
    ),
    Pipeline(
        "StableDiffusion3ControlNetPipeline",
        lambda: controlled(StableDiffusion3ControlNetPipeline),
        {**SD3, "control_image": picture()},
        _ONE,
    ),
    Pipeline(
        "StableDiffusion3ControlNetInpaintingPipeline",
        lambda: controlled(StableDiffusion3ControlNetInpaintingPipeline, extra=1),
        {**SD3, "control_image": picture(), "control_mask": mask()},
        _ONE,
    ),
)
