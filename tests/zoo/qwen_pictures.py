"""Qwen-Image's pipelines that begin with a picture, a mask or a control."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    QwenImageEditPipeline,
    QwenImageInpaintPipeline,
)

from tests.newer import (
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
)
from tests.zoo.flux import SIZE, picture, prompts
from tests.zoo.flux_pictures import mask
from tests.zoo.kinds import Pipeline, noise, seeded, without_zeros
from tests.zoo.qwen import qwen, qwen_pipeline


def coarse_vae() -> Any:
    """For pictures that are never smaller than a megapixel: 16 x 16 latents of that are enough."""
    return seeded(
        lambda: AutoencoderKLQwenImage(
            base_dim=2,
            z_dim=4,
            dim_mult=[1] * 7,
            num_res_blocks=0,
            temperal_downsample=[False] * 6,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )


def editing(kind: type, **changes: Any) -> Any:
    return qwen_pipeline(kind, vae=coarse_vae(), processor=None, **changes)


class Typed:
    """In the place of a text encoder that is only asked for its dtype."""

    dtype = torch.float32


def layered() -> QwenImageLayeredPipeline:
    denoiser = qwen(use_additional_t_cond=True, use_layer3d_rope=True)
    pipe = editing(QwenImageLayeredPipeline, text_encoder=Typed(), transformer=denoiser)
    pipe.encode_prompt = lambda prompt, **given: (noise(1, 6, 8, seed=len(prompt)), None)
    return pipe


def controlled(kind: type, extra: int = 0) -> Any:
    net = without_zeros(
        lambda: QwenImageControlNetModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            axes_dims_rope=(4, 6, 6),
            extra_condition_channels=extra,
        )
    )
    return qwen_pipeline(kind, controlnet=net)


_GUIDED = {**SIZE, **prompts(), "true_cfg_scale": 4.0}
_EDITED = {**_GUIDED, "image": picture(64)}
_SEEN = {f"{which}prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]) for which in ("", "negative_")}

PIPELINES = (
    Pipeline(
        "QwenImageInpaintPipeline",
        lambda: qwen_pipeline(QwenImageInpaintPipeline),
        {**_GUIDED, "image": picture(), "mask_image": mask(), "strength": 0.8},
    ),
    Pipeline("QwenImageEditPipeline", lambda: editing(QwenImageEditPipeline), {**_EDITED, "height": 256, "width": 256}),
    Pipeline(
        "QwenImageEditPlusPipeline",
        lambda: editing(QwenImageEditPlusPipeline, transformer=qwen(zero_cond_t=True)),
        {**_EDITED, "height": 256, "width": 256},
    ),
    Pipeline(
        "QwenImageEditInpaintPipeline",
        lambda: editing(QwenImageEditInpaintPipeline),
        {**_EDITED, "height": 1024, "width": 1024, "mask_image": mask(64), "strength": 0.8},
    ),
    Pipeline(
        "QwenImageLayeredPipeline",
        layered,
        {
            "prompt": "a",
            "negative_prompt": "no",
            "true_cfg_scale": 4.0,
            "image": picture(64),
            "layers": 2,
            "output_type": "pt",  # it cannot give latents
        },
    ),
    Pipeline(
        "QwenImageControlNetPipeline",
        lambda: controlled(QwenImageControlNetPipeline),
        {**_GUIDED, **_SEEN, "control_image": picture()},
    ),
    Pipeline(
        "QwenImageControlNetInpaintPipeline",
        lambda: controlled(QwenImageControlNetInpaintPipeline, extra=4),
        {**_GUIDED, **_SEEN, "control_image": picture(), "control_mask": mask()},
    ),
)
