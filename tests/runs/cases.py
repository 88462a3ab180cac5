"""Tiny pipelines by name: those of the zoo, and some more whose way to run is of interest here."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch
from diffusers import (
    ClassifierFreeGuidance,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
)

from tests import zoo
from tests.newer import (
    AdaptiveProjectedMixGuidance,
    HunyuanImagePipeline,
    StableDiffusionXLCoreDenoiseStep,
    WanCoreDenoiseStep,
    ZImagePipeline,
)
from tests.tiny import CASES, Case, noise, wan_transformer
from tests.zoo.hunyuan_image import hunyuan_image
from tests.zoo.lumina import lumina2, z_image
from tests.zoo.sd3 import sd3
from tests.zoo.unets import EMBEDS, POOLED, SIZE, image_vae, large

_LISTS = ("PIPELINES", "LATER_PIPELINES", "SPECIAL")


def _all() -> dict[str, Case]:
    modules = [importlib.import_module(f"{zoo.__name__}.{found.name}") for found in pkgutil.iter_modules(zoo.__path__)]
    found = {case.name: case for module in modules for kind in _LISTS for case in getattr(module, kind, ())}
    return {case.name: case for case in CASES} | found


BY_NAME = _all()


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


_SIZE = {"height": 32, "width": 32}


def _lumina2() -> Any:
    return Lumina2Pipeline(lumina2(), FlowMatchEulerDiscreteScheduler(shift=6.0), image_vae(), None, None)


LUMINA2 = Case(
    "Lumina2Pipeline",
    _lumina2,
    {
        **_SIZE,
        "guidance_scale": 4.0,
        "prompt_embeds": noise(1, 6, 8, seed=1),
        "negative_prompt_embeds": noise(1, 6, 8, seed=2),
        "prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
        "negative_prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
    },
    ("call0", "call1"),
)

Z_IMAGE = Case(
    "ZImagePipeline",
    lambda: ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), image_vae(), None, None, z_image()),
    {
        **_SIZE,
        "guidance_scale": 4.0,
        "prompt_embeds": [noise(6, 8, seed=1)],
        "negative_prompt_embeds": [noise(4, 8, seed=2)],
    },
    ("call0",),
)


def _sd3(pipeline: type, **more: Any) -> Any:
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return pipeline(transformer=sd3(), scheduler=scheduler, vae=image_vae(), **parts, tokenizer_3=None, **more)


_TEXT3 = {
    **_SIZE,
    "guidance_scale": 5.0,
    "prompt_embeds": noise(1, 6, 8, seed=1),
    "negative_prompt_embeds": noise(1, 6, 8, seed=2),
    "pooled_prompt_embeds": noise(1, 8, seed=3),
    "negative_pooled_prompt_embeds": noise(1, 8, seed=4),
}

SD3 = Case("StableDiffusion3Pipeline", lambda: _sd3(StableDiffusion3Pipeline), _TEXT3, ("call0",))

SD3_PAG = Case(
    "StableDiffusion3PAGPipeline",
    lambda: _sd3(StableDiffusion3PAGPipeline, pag_applied_layers=["transformer_blocks.1"]),
    {**_TEXT3, "pag_scale": 2.0},
    ("call0",),
)


def _hunyuan_image() -> Any:
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    guider = AdaptiveProjectedMixGuidance(guidance_scale=3.5, adaptive_projected_guidance_start_step=4)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=4.0)
    return HunyuanImagePipeline(**parts, scheduler=scheduler, transformer=hunyuan_image(), guider=guider)


HUNYUAN_IMAGE = Case(
    "HunyuanImagePipeline",
    _hunyuan_image,
    {
        "height": 128,
        "width": 128,
        **{
            key: value
            for i, sign in enumerate(("", "negative_"))
            for key, value in {
                f"{sign}prompt_embeds": noise(1, 6, 8, seed=1 + i),
                f"{sign}prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]),
                f"{sign}prompt_embeds_2": noise(1, 4, 8, seed=3 + i),
                f"{sign}prompt_embeds_mask_2": torch.tensor([[1, 1, 0, 0]]),
            }.items()
        },
    },
    ("pred_cond", "pred_uncond"),
)


class Modular(Case):
    """A modular pipeline: blocks that hand on a state; no contexts, and nobody says that a run is over."""

    def run(self, pipe: Any, seed: int = 0, **changes: Any) -> torch.Tensor:
        """The latents that the pipeline makes from this seed."""
        call = {"num_inference_steps": 10, **self.call, **changes}
        pipe.set_progress_bar_config(disable=True)
        return pipe(generator=torch.Generator().manual_seed(seed), output="latents", **call)


def modular_wan(guider: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    pipe = WanCoreDenoiseStep().init_pipeline()
    pipe.update_components(
        transformer=wan_transformer().to(dtype),
        scheduler=unipc(),
        guider=guider or ClassifierFreeGuidance(guidance_scale=4.0),
    )
    return pipe


MODULAR_WAN = Modular(
    "WanModularPipeline",
    modular_wan,
    {
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "prompt_embeds": noise(1, 6, 8, seed=1),
        "negative_prompt_embeds": noise(1, 6, 8, seed=2),
        "latents": noise(1, 4, 2, 4, 4, seed=3),
    },
    ("call0", "call1"),
)


def modular_large() -> Any:
    parts = large()
    pipe = StableDiffusionXLCoreDenoiseStep().init_pipeline()
    pipe.update_components(
        unet=parts["unet"],
        vae=parts["vae"],
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        guider=ClassifierFreeGuidance(guidance_scale=5.0),
    )
    return pipe


MODULAR_LARGE = Modular(
    "StableDiffusionXLModularPipeline",
    modular_large,
    {
        **SIZE,
        **EMBEDS,
        **POOLED,
        "original_size": (16, 16),
        "target_size": (16, 16),
        "crops_coords_top_left": (0, 0),
    },
    ("call0", "call1"),
)


COSMOS_TRANSFER = BY_NAME["Cosmos2_5_TransferPipeline"]
LTX2_TILES = BY_NAME["LTX2DFRPipeline"]
