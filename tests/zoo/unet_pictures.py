"""U-Net pipelines that begin with a picture, a video, a mask or a control."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    ControlNetModel,
    DDIMScheduler,
    SparseControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    T2IAdapter,
    VideoToVideoSDPipeline,
)

from tests.zoo.flux import picture
from tests.zoo.flux_pictures import mask
from tests.zoo.kinds import Pipeline, seeded, without_zeros
from tests.zoo.unets import (
    EMBEDS,
    GUIDED,
    IMAGE,
    NO_TEXT_ENCODER,
    POOLED,
    VIDEO,
    animated,
    controlnet,
    image_vae,
    large,
    sdxl_unet,
    still,
    text_to_video_unet,
)


def _still(kind: type, **more: Any) -> Any:
    return kind(**{**still(), "scheduler": DDIMScheduler(), **more})


def _large(kind: type, **more: Any) -> Any:
    return kind(**{**large(), **more})


def large_controlnet() -> ControlNetModel:
    return without_zeros(
        lambda: ControlNetModel.from_unet(sdxl_unet(), conditioning_embedding_out_channels=(4, 8)), std=0.3
    )


def sparse_controlnet() -> SparseControlNetModel:
    return without_zeros(
        lambda: SparseControlNetModel(
            down_block_types=("CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion", "DownBlockMotion"),
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            cross_attention_dim=8,
            num_attention_heads=2,
            motion_num_attention_heads=2,
        ),
        std=0.3,
    )


def adapter() -> T2IAdapter:
    return seeded(lambda: T2IAdapter(channels=[8, 8, 8], num_res_blocks=1, downscale_factor=2))


def video_to_video() -> VideoToVideoSDPipeline:
    parts = {"vae": image_vae(), "unet": text_to_video_unet(), "scheduler": DDIMScheduler()}
    return VideoToVideoSDPipeline(**parts, **NO_TEXT_ENCODER)


_FROM = {**EMBEDS, "guidance_scale": 5.0, "image": picture(), "strength": 0.8}
_FILM = {**EMBEDS, "guidance_scale": 5.0, "video": [IMAGE] * 3, "strength": 0.8}
_MASKED = {**GUIDED, "image": picture(), "mask_image": mask()}
_ONE = ("call0",)

PIPELINES = (
    Pipeline("StableDiffusionImg2ImgPipeline", lambda: _still(StableDiffusionImg2ImgPipeline), _FROM, _ONE),
    Pipeline("StableDiffusionInpaintPipeline", lambda: _still(StableDiffusionInpaintPipeline), _MASKED, _ONE),
    Pipeline(
        "StableDiffusionAdapterPipeline",
        lambda: _still(StableDiffusionAdapterPipeline, adapter=adapter()),
        {**GUIDED, "image": picture()},
        _ONE,
    ),
    Pipeline(
        "StableDiffusionXLImg2ImgPipeline",
        lambda: _large(StableDiffusionXLImg2ImgPipeline, add_watermarker=False),
        {**_FROM, **POOLED},
        _ONE,
    ),
    Pipeline(
        "StableDiffusionXLInpaintPipeline",
        lambda: _large(StableDiffusionXLInpaintPipeline, add_watermarker=False),
        {**_MASKED, **POOLED},
        _ONE,
    ),
    Pipeline(
        "StableDiffusionXLControlNetPipeline",
        lambda: _large(StableDiffusionXLControlNetPipeline, add_watermarker=False, controlnet=large_controlnet()),
        {**GUIDED, **POOLED, "image": picture()},
        _ONE,
    ),
    Pipeline(
        "StableDiffusionXLAdapterPipeline",
        lambda: _large(StableDiffusionXLAdapterPipeline, adapter=adapter()),
        {**GUIDED, **POOLED, "image": picture()},
        _ONE,
    ),
    Pipeline(
        "AnimateDiffSparseControlNetPipeline",
        lambda: AnimateDiffSparseControlNetPipeline(**animated(), controlnet=sparse_controlnet()),
        {**VIDEO, "conditioning_frames": [IMAGE], "controlnet_frame_indices": [1]},
        _ONE,
    ),
    Pipeline(
        "AnimateDiffVideoToVideoControlNetPipeline",
        lambda: AnimateDiffVideoToVideoControlNetPipeline(**animated(), controlnet=controlnet()),
        {**GUIDED, **_FILM, "conditioning_frames": [IMAGE] * 3},
        _ONE,
    ),
    Pipeline("VideoToVideoSDPipeline", video_to_video, _FILM, _ONE),
)
