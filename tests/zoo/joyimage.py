"""JoyImage Edit."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
)

from tests.newer import (
    JoyImageEditPipeline,
    JoyImageEditPlusPipeline,
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
)
from tests.tiny import wan_vae
from tests.zoo.flux import picture
from tests.zoo.kinds import Model, Pipeline, noise, seeded


def joyimage_transformer(model: type = JoyImageEditTransformer3DModel) -> Any:
    def build() -> Any:
        made = model(
            patch_size=[1, 2, 2],
            in_channels=4,
            hidden_size=24,
            num_attention_heads=2,
            text_dim=16,
            num_layers=3,
            rope_dim_list=[4, 4, 4],
        )
        for name, parameter in made.named_parameters():
            if "modulate_table" in name:
                parameter.data.normal_(std=0.2)
        return made

    return seeded(build)


MODELS = (
    # (batch, images, channels, frames, height, width): the given image, then the one being made
    Model(
        "JoyImageEditTransformer3DModel",
        joyimage_transformer,
        lambda share: {
            "hidden_states": noise(1, 2, 4, 1, 4, 4),
            "timestep": torch.tensor([1000 * (1 - share)]),
            "encoder_hidden_states": noise(1, 6, 16, seed=1),
        },
        guidance="separate",
    ),
    # patches of images of different sizes in one row, with padding behind
    Model(
        "JoyImageEditPlusTransformer3DModel",
        lambda: joyimage_transformer(JoyImageEditPlusTransformer3DModel),
        lambda share: {
            "hidden_states": noise(2, 12, 4, 1, 2, 2),
            "timestep": torch.full((2,), 1000 * (1 - share)),
            "encoder_hidden_states": noise(2, 6, 16, seed=1),
            "encoder_hidden_states_mask": torch.ones(2, 6),
            "shape_list": [[(1, 2, 2), (1, 2, 4)], [(1, 2, 2), (1, 2, 2)]],
        },
        guidance="batched",
    ),
)


def joyimage() -> JoyImageEditPipeline:
    vae = wan_vae()
    # its pictures are never smaller than a megapixel: 16 x 16 latents of that are enough
    vae.register_to_config(scale_factor_spatial=64)
    return JoyImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.5),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=joyimage_transformer(),
        processor=None,
    )


def joyimage_plus() -> JoyImageEditPlusPipeline:
    """Its given pictures are of a megapixel too; what its text encoder says is made up."""
    vae = seeded(
        lambda: AutoencoderKLWan(
            base_dim=2,
            z_dim=4,
            dim_mult=[1] * 7,
            num_res_blocks=0,
            temperal_downsample=[False] * 6,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            scale_factor_spatial=64,
        )
    )
    pipe = JoyImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.5),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=joyimage_transformer(JoyImageEditPlusTransformer3DModel),
        processor=None,
    )
    pipe.encode_prompt_multiple_images = lambda prompt, **given: (
        noise(1, 6, 16, seed=len(prompt[0])),
        torch.ones(1, 6),
    )
    return pipe


PIPELINES = (
    Pipeline(
        "JoyImageEditPipeline",
        joyimage,
        {
            "height": 1024,
            "width": 1024,
            "guidance_scale": 4.0,
            "prompt_embeds": noise(1, 6, 16, seed=1),
            "prompt_embeds_mask": torch.ones(1, 6),
            "negative_prompt_embeds": noise(1, 6, 16, seed=2),
            "negative_prompt_embeds_mask": torch.ones(1, 6),
        },
        ("call0", "call1"),
    ),
    Pipeline(
        "JoyImageEditPlusPipeline",
        joyimage_plus,
        {"prompt": "a", "negative_prompt": "no", "guidance_scale": 4.0, "images": [picture(64)]},
        ("call0",),
    ),
)
