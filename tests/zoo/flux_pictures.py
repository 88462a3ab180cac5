"""Pipelines of Flux and its kin that begin with a picture, a mask or a control."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ChromaImg2ImgPipeline,
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
    VisualClozeGenerationPipeline,
)
from PIL import Image

from tests.newer import (
    BriaFiboEditPipeline,
    ChromaInpaintPipeline,
    Flux2KleinInpaintPipeline,
    LongCatImageEditPipeline,
)
from tests.tiny import wan_vae
from tests.zoo.flux import (
    BLIND,
    POOLED,
    SIZE,
    TRUE_GUIDANCE,
    chroma,
    euler,
    fibo,
    flux,
    flux2_pipeline,
    flux_controlnet,
    flux_pipeline,
    longcat,
    picture,
    prompts,
    vae,
)
from tests.zoo.kinds import Pipeline, noise


def mask(size: int = 16) -> Image.Image:
    """White in its left half: what is to be made anew."""
    made = Image.new("L", (size, size))
    made.paste(255, (0, 0, size // 2, size))
    return made


def _wide(kind: type, tokens: int) -> Any:
    """With so many channels in a token, of which 4 are made."""
    return flux_pipeline(kind, transformer=flux(in_channels=tokens, out_channels=4, guidance_embeds=True))


def _chroma(kind: type) -> Any:
    transformer = chroma()
    transformer.register_to_config(guidance_embeds=False)  # inpainting asks for this setting, which Chroma has not
    return kind(**BLIND, transformer=transformer, vae=vae(1), scheduler=euler())


class Eyeless:
    """In the place of a processor of which only the part for pictures is wanted, and not used."""

    image_processor = None


def longcat_edit() -> LongCatImageEditPipeline:
    """Its pictures are of a megapixel: 16 x 16 latents of that are enough."""
    few: dict[str, Any] = {
        name: (kind,) * 7
        for name, kind in (
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
            ("block_out_channels", 4),
        )
    }
    parts = {"transformer": longcat(in_channels=64), "vae": vae(16, **few, layers_per_block=1), "scheduler": euler()}
    pipe = LongCatImageEditPipeline(**BLIND, text_processor=Eyeless(), **parts)
    pipe._encode_prompt = lambda prompt, image: noise(1, 6, 8, seed=len(prompt[0]))
    return pipe


def visual_cloze() -> VisualClozeGenerationPipeline:
    transformer = flux(in_channels=24, out_channels=4, guidance_embeds=True)
    pipe = flux_pipeline(VisualClozeGenerationPipeline, transformer=transformer, resolution=32)
    pipe.encode_prompt = lambda **given: (noise(1, 6, 8, seed=1), POOLED["pooled_prompt_embeds"], torch.zeros(6, 3))
    return pipe


def fibo_edit() -> BriaFiboEditPipeline:
    """Its text encoder's outputs of all layers are made up."""
    pipe = BriaFiboEditPipeline(**BLIND, transformer=fibo(), vae=wan_vae(), scheduler=euler())

    def encode_prompt(*given: Any, **named: Any) -> tuple[Any, ...]:
        ones = torch.ones(1, 6)
        layers = [[noise(1, 6, 8, seed=10 * k + i) for i in range(6)] for k in (1, 2)]
        return noise(1, 6, 8, seed=1), noise(1, 6, 8, seed=2), torch.zeros(6, 3), ones, ones, *layers

    pipe.encode_prompt = encode_prompt
    return pipe


_GIVEN = {"image": picture(), "strength": 0.8}
_MASKED = {**_GIVEN, "mask_image": mask()}
_DISTILLED = {**SIZE, **POOLED, "prompt_embeds": noise(1, 6, 8, seed=1)}
_SEEN = {f"{which}prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool) for which in ("", "negative_")}
_CHROMA = {**SIZE, **prompts(), **_SEEN}
_ONE, _TWO = ("call0",), ("call0", "call1")

PIPELINES = (
    Pipeline("FluxInpaintPipeline", lambda: flux_pipeline(FluxInpaintPipeline), {**_DISTILLED, **_MASKED}, _ONE),
    Pipeline("FluxFillPipeline", lambda: _wide(FluxFillPipeline, 24), {**_DISTILLED, **_MASKED, "strength": 1.0}, _ONE),
    Pipeline(
        "FluxControlPipeline", lambda: _wide(FluxControlPipeline, 8), {**_DISTILLED, "control_image": picture()}, _ONE
    ),
    Pipeline(
        "FluxControlImg2ImgPipeline",
        lambda: _wide(FluxControlImg2ImgPipeline, 8),
        {**_DISTILLED, **_GIVEN, "control_image": picture()},
        _ONE,
    ),
    Pipeline(
        "FluxControlInpaintPipeline",
        lambda: _wide(FluxControlInpaintPipeline, 8),
        {**_DISTILLED, **_MASKED, "control_image": picture()},
        _ONE,
    ),
    Pipeline(
        "FluxControlNetImg2ImgPipeline",
        lambda: flux_controlnet(FluxControlNetImg2ImgPipeline),
        {**_DISTILLED, **_GIVEN, "control_image": picture()},
        _ONE,
    ),
    Pipeline(
        "FluxControlNetInpaintPipeline",
        lambda: flux_controlnet(FluxControlNetInpaintPipeline),
        {**_DISTILLED, **_MASKED, "control_image": picture()},
        _ONE,
    ),
    Pipeline(
        "FluxKontextInpaintPipeline",
        lambda: flux_pipeline(FluxKontextInpaintPipeline),
        {**TRUE_GUIDANCE, **_MASKED, "max_area": 256, "_auto_resize": False},
        _TWO,
    ),
    Pipeline(
        "Flux2KleinInpaintPipeline",
        lambda: flux2_pipeline(Flux2KleinInpaintPipeline),
        {**SIZE, **prompts(), "guidance_scale": 4.0, **_MASKED},
    ),
    Pipeline("ChromaImg2ImgPipeline", lambda: _chroma(ChromaImg2ImgPipeline), {**_CHROMA, **_GIVEN}, _TWO),
    Pipeline(
        "ChromaInpaintPipeline",
        lambda: _chroma(ChromaInpaintPipeline),
        {**_CHROMA, **_MASKED, "true_cfg_scale": 4.0},
        _TWO,
    ),
    Pipeline(
        "BriaFiboEditPipeline",
        fibo_edit,
        {"height": 64, "width": 64, "prompt": '{"edit_instruction": "a"}', "image": picture(64), "_auto_resize": False},
        _ONE,
    ),
    Pipeline("LongCatImageEditPipeline", longcat_edit, {"prompt": "a", "image": picture(64)}),
    # one example, and one of which the second picture is to be made
    Pipeline(
        "VisualClozeGenerationPipeline",
        visual_cloze,
        {
            "task_prompt": "a",
            "content_prompt": "b",
            "image": [[picture(32), picture(32)], [picture(32), None]],
        },
        _ONE,
    ),
)
