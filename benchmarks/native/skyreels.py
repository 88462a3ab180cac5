"""SkyReels-V2: its pipelines' loops, with text features in place of the encoder."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import attention, shell, stub, stub_absent

STEPS = 8


class Texts(nn.Module):
    """In the place of the text encoder."""

    def encode(self, prompt: str) -> Tensor:
        """Features of what is given, always the same."""
        return torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(len(prompt)))


class Kept:
    """A VAE that keeps the latents it is to decode: what the pipeline returns is rounded to bytes."""

    vae = SimpleNamespace(z_dim=16)
    seen: Tensor

    def decode(self, latents: Tensor) -> Tensor:
        """Keeps or passes on the latents."""
        self.seen = latents
        return torch.zeros(1, 3, 1, 2, 2)

    def encode(self, video: Tensor) -> Tensor:
        """Features of what is given, always the same."""
        return torch.ones(1, 16, 1, 4, 4)


def opened(folder: Path, name: str) -> Any:
    """Imports what is needed from the checkout, with stubs for the rest."""
    stub_absent("flash_attn", "decord", "torchvision", "cv2", "xfuser")
    kinds = {"get_text_encoder": None, "get_transformer": None, "get_vae": None, "get_image_encoder": None}
    stub("skyreels_v2_infer.modules.t5", "skyreels_v2_infer.modules.vae", "skyreels_v2_infer.modules.clip")
    for package in ("skyreels_v2_infer", "skyreels_v2_infer.pipelines", "skyreels_v2_infer.scheduler"):
        shell(package, folder / package.replace(".", "/"))
    vars(shell("skyreels_v2_infer.modules", folder / "skyreels_v2_infer/modules")).update(kinds)
    transformer: Any = importlib.import_module("skyreels_v2_infer.modules.transformer")
    transformer.flash_attention = attention
    model = transformer.WanModel(
        model_type="t2v", text_len=6, in_dim=16, dim=24, ffn_dim=32, freq_dim=16, text_dim=12, out_dim=16, num_heads=2,
        num_layers=4, inject_sample_info=name != "text2video_pipeline",
    )  # fmt: skip
    lively(model)
    pipelines = importlib.import_module(f"skyreels_v2_infer.pipelines.{name}")
    scheduler = pipelines.FlowUniPCMultistepScheduler()
    parts = {"transformer": model, "vae": Kept(), "text_encoder": Texts(), "sp_size": 1, "device": "cpu",
             "offload": False, "scheduler": scheduler, "vae_stride": (4, 8, 8), "patch_size": (1, 2, 2)}  # fmt: skip
    return pipelines, parts


def made_of(kind: Any, parts: dict[str, Any]) -> Any:
    """An object of the class without its constructor."""
    made = kind.__new__(kind)
    vars(made).update(parts)
    return made


def text_to_video(folder: Path) -> Sampler:
    """Text to video."""
    pipelines, parts = opened(folder, "text2video_pipeline")
    pipe = made_of(pipelines.Text2VideoPipeline, parts)

    def sample() -> Tensor:
        pipe("a cat", "bad", 32, 32, 9, STEPS, generator=torch.Generator().manual_seed(0))
        return parts["vae"].seen

    return Sampler(pipe.transformer, sample, STEPS, ("call0", "call1"), forwards=2)


def forcing(folder: Path, ar_step: int, block: int = 1) -> Sampler:
    """Diffusion forcing: all frames together (`ar_step` 0), or one group of frames some steps behind the other."""
    pipelines, parts = opened(folder, "diffusion_forcing_pipeline")
    pipe = made_of(pipelines.DiffusionForcingPipeline, parts)
    frames = 3
    rows = STEPS + ar_step * (frames // block - 1)

    def sample() -> Tensor:
        pipe(
            "a cat", "bad", height=32, width=32, num_frames=4 * frames - 3, num_inference_steps=STEPS, shift=8.0,
            ar_step=ar_step, causal_block_size=block, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return parts["vae"].seen

    return Sampler(pipe.transformer, sample, rows, ("call0", "call1"), forwards=2)


REPOSITORY, DENOISER = "SkyworkAI/SkyReels-V2", "skyreels_v2_infer.modules.transformer.WanModel"
STUBBED = "flash_attn (plain attention), text encoder, VAE"
CASES = (
    Case("skyreels", REPOSITORY, DENOISER, "Text2VideoPipeline", text_to_video, STUBBED),
    Case("skyreels-forcing", REPOSITORY, DENOISER, "DiffusionForcingPipeline, ar_step 0",
         lambda folder: forcing(folder, 0), STUBBED),
    Case("skyreels-forcing-groups", REPOSITORY, DENOISER, "DiffusionForcingPipeline, ar_step 3",
         lambda folder: forcing(folder, 3), STUBBED),
)  # fmt: skip
