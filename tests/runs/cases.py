"""Tiny pipelines by name: those of the zoo, and some more whose way to run is of interest here."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch
import zoo
from diffusers import (
    AdaptiveProjectedMixGuidance,
    ClassifierFreeGuidance,
    Cosmos2_5_TransferPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    LTX2DFRPipeline,
    Lumina2Pipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    ZImagePipeline,
)
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from diffusers.pipelines.ltx2.dfr_layout import LTX2DFREpilogueTile
from tiny import CASES, Case, noise, wan_transformer, wan_vae
from torch import nn
from zoo.cosmos import Harmless, cosmos_transformer
from zoo.hunyuan_image import hunyuan_image
from zoo.ltx import ltx2
from zoo.lumina import lumina2, z_image
from zoo.sd3 import sd3
from zoo.unets import image_vae

_LISTS = ("PIPELINES", "LATER_PIPELINES", "SPECIAL")


def _all() -> dict[str, Case]:
    modules = [importlib.import_module(f"zoo.{found.name}") for found in pkgutil.iter_modules(zoo.__path__)]
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


class Control(nn.Module):
    """In the place of Cosmos' ControlNet, which would need torchvision: residuals for two blocks."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, latents: torch.Tensor, **given: Any) -> tuple[list[torch.Tensor]]:
        frames, height, width = latents.shape[2:]
        tokens = frames * height * width // 4
        mean = given["encoder_hidden_states"].mean()
        return ([mean * noise(1, tokens, 32, seed=8), mean * noise(1, tokens, 32, seed=9)],)


def _cosmos_transfer() -> Any:
    return Cosmos2_5_TransferPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=cosmos_transformer(5, controlnet_block_every_n=2, max_size=(16, 32, 32)),
        vae=wan_vae(),
        scheduler=unipc(),
        controlnet=Control(),
        safety_checker=Harmless(),
    )


COSMOS_TRANSFER = Case(
    "Cosmos2_5_TransferPipeline",
    _cosmos_transfer,
    {
        "controls": [noise(17, 3, 32, 32, seed=5).sigmoid()],
        "height": 32,
        "width": 32,
        "num_frames_per_chunk": 9,
        "guidance_scale": 3.0,
        "prompt_embeds": noise(1, 6, 16, seed=1),
        "negative_prompt_embeds": noise(1, 6, 16, seed=2),
    },
    ("call0", "call1"),
)


class Tiled(LTX2DFRPipeline):
    """As its last stage runs it: in each step a forward for each tile, and the audio is given."""

    def __call__(self, num_inference_steps: int, **call: Any) -> Any:
        """Takes a number of steps, as all others do."""
        sigmas = [1 - i / num_inference_steps for i in range(num_inference_steps)]
        grid = (5, 16, 16)
        left, right = slice(0, 10), slice(8, 16)
        ramp = torch.ones(16)
        ramp[8:10] = 0.5
        tiles = [
            LTX2DFREpilogueTile(slice(0, grid[0]), slice(0, grid[1]), part, ramp[part].expand(*grid[:2], -1))
            for part in (left, right)
        ]
        return super().__call__(sigmas=sigmas, video_tiles=tiles, generate_slots=False, **call)


def _tiled() -> Tiled:
    pipe = ltx2(Tiled)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    return pipe


LTX2_TILES = Case(
    "LTX2DFRPipeline",
    _tiled,
    {
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "use_cross_timestep": False,
        "prompt_embeds": noise(1, 8, 32, seed=1),
        "prompt_attention_mask": torch.ones(1, 8, dtype=torch.long),
    },
    ("call0", "call1"),
)
