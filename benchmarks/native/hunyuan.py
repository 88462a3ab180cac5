"""HunyuanVideo: its pipeline as it stands, with text features in place of encoders."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import shell, stub, stub_absent

STEPS = 8
WORDS = 5
PROMPTS = ["a cat", "a dog that runs"]


class Texts:
    """A text encoder of the repository: features of a prompt, one row of them or one for all."""

    dtype = torch.float32

    def __init__(self, width: int, words: int | None) -> None:
        self.width, self.words = width, words

    def text2tokens(self, prompt: str | list[str], **_: Any) -> list[str]:
        """The prompts themselves."""
        return [prompt] if isinstance(prompt, str) else prompt

    def encode(self, prompts: list[str], **_: Any) -> Any:
        """Features of what is given, always the same."""
        shape = (self.width,) if self.words is None else (self.words, self.width)
        made = [torch.randn(shape, generator=torch.Generator().manual_seed(len(prompt))) for prompt in prompts]
        mask = torch.ones(len(prompts), self.words or 1, dtype=torch.long)
        return SimpleNamespace(hidden_state=torch.stack(made), attention_mask=mask)


def attention_in_torch(models: Any) -> None:
    """Its own `attention`, in the mode that needs no kernel; lengths are what flash attention asks for."""
    original = models.attention

    def attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        made: Tensor = original(q, k, v, mode="torch")
        return made

    models.attention = attention
    models.get_cu_seqlens = lambda mask, length: torch.zeros(2 * len(mask) + 1, dtype=torch.int32)


def pipeline(folder: Path, guided: bool, count: int = 1) -> Sampler:
    """The pipeline, with or without guidance, for so many prompts."""
    stub_absent("flash_attn", "loguru", "decord", "cv2", "imageio", "torchvision", "xfuser")
    stub("hyvideo.text_encoder", "hyvideo.vae")
    for name in ("hyvideo", "hyvideo.diffusion", "hyvideo.diffusion.pipelines", "hyvideo.utils"):
        shell(name, folder / name.replace(".", "/"))
    found = importlib.import_module("hyvideo.diffusion.pipelines.pipeline_hunyuan_video")
    schedulers = importlib.import_module("hyvideo.diffusion.schedulers")
    models = importlib.import_module("hyvideo.modules.models")
    attention_in_torch(models)
    widths = SimpleNamespace(text_states_dim=12, text_states_dim_2=8)
    transformer = models.HYVideoDiffusionTransformer(
        widths, in_channels=4, hidden_size=32, heads_num=2, mlp_width_ratio=2.0, mm_double_blocks_depth=2,
        mm_single_blocks_depth=3, rope_dim_list=[4, 6, 6], guidance_embed=not guided,
    )  # fmt: skip
    lively(transformer)
    made = found.HunyuanVideoPipeline.__new__(found.HunyuanVideoPipeline)
    nothing: Any = nn.Identity()
    nothing.config = SimpleNamespace(block_out_channels=[1, 1, 1, 1], scaling_factor=1.0)
    nothing.device, nothing.dtype = torch.device("cpu"), torch.float32
    found.DiffusionPipeline.__init__(made)
    made.args = SimpleNamespace(precision="fp32", vae_precision="fp32", disable_autocast=True)
    made.register_modules(
        transformer=transformer, vae=nothing, scheduler=schedulers.FlowMatchDiscreteScheduler(),
        text_encoder=Texts(12, WORDS), text_encoder_2=Texts(8, None),
    )  # fmt: skip
    made.vae_scale_factor, made._progress_bar_config = 8, {"disable": True}

    def sample(prompts: list[str], latents: Tensor) -> Any:
        made.scheduler = schedulers.FlowMatchDiscreteScheduler(shift=7.0)  # new in each call, as its sampler has it
        return made(
            prompt=prompts, negative_prompt=["bad"] * len(prompts), height=32, width=32, video_length=9,
            num_inference_steps=STEPS, guidance_scale=6.0 if guided else 1.0, vae_ver="884-16c", data_type="video",
            embedded_guidance_scale=None if guided else 6.0, latents=latents, output_type="latent", return_dict=False,
            freqs_cis=(torch.ones(12, 16), torch.zeros(12, 16)), generator=None,
        )  # fmt: skip

    z = torch.stack([torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(count)])
    alone = tuple(
        Sampler(made, partial(sample, PROMPTS[i : i + 1], z[i : i + 1]), STEPS, ("call0",), told=False)
        for i in range(count)
    )
    if count == 1:
        return alone[0]
    return Sampler(made, lambda: sample(PROMPTS, z), STEPS, ("call0",) * count, told=False, alone=alone)


REPOSITORY = "Tencent-Hunyuan/HunyuanVideo"
DENOISER = "hyvideo.modules.models.HYVideoDiffusionTransformer"
STUBBED = "flash_attn (its own attention in mode torch), text encoders, VAE"
CASES = (
    Case("hunyuan", REPOSITORY, DENOISER, "HunyuanVideoPipeline, guidance distilled",
         lambda folder: pipeline(folder, guided=False), STUBBED),
    Case("hunyuan-guided", REPOSITORY, DENOISER, "HunyuanVideoPipeline, guidance",
         lambda folder: pipeline(folder, guided=True), STUBBED),
    Case("hunyuan-batch", REPOSITORY, DENOISER, "HunyuanVideoPipeline, guidance, two prompts",
         lambda folder: pipeline(folder, guided=True, count=2), STUBBED),
)  # fmt: skip
