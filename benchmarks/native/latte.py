"""Latte by class: `forward_with_cfg` under the sampler of its own repository."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import shell, stub_absent

STEPS = 8


def latte(folder: Path) -> Sampler:
    """Latte by class: through `forward_with_cfg`."""
    stub_absent("torchvision", "xformers")
    shell("models", folder / "models")
    model = importlib.import_module("models.latte").Latte(
        input_size=4, hidden_size=24, depth=6, num_heads=2, num_frames=3, num_classes=101, extras=2
    )
    lively(model)
    diffusion = importlib.import_module("diffusion").create_diffusion(str(STEPS))

    def sample() -> Tensor:
        torch.manual_seed(0)
        z = torch.randn(1, 3, 4, 4, 4).repeat(2, 1, 1, 1, 1)
        given = {"y": torch.tensor([7, 101]), "cfg_scale": 7.0, "use_fp16": False}
        with torch.no_grad():
            return diffusion.ddim_sample_loop(
                model.forward_with_cfg, z.shape, z, clip_denoised=False, model_kwargs=given, device="cpu"
            )

    return Sampler(model, sample, STEPS, ("call0",))


CASES = (
    Case("latte", "Vchitect/Latte", "models.latte.Latte", "forward_with_cfg under ddim_sample_loop", latte),
)  # fmt: skip
