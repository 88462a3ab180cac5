"""VideoSys: its Open-Sora 1.2 under its own rectified flow."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import shell, stub_absent

STEPS = 8
WIDTH, TEXT, WORDS = 24, 12, 6


def opened(folder: Path) -> Sampler:
    """Imports what is needed from the checkout, with stubs for the rest; its sampler takes one video at a time."""
    stub_absent("colossalai", "imageio", "torchvision", "flash_attn", "av", "cv2", "pandas")
    for name in ("videosys", "videosys.core", "videosys.core.dcp", "videosys.core.pab", "videosys.core.distributed",
                 "videosys.models", "videosys.models.transformers", "videosys.schedulers"):  # fmt: skip
        shell(name, folder / name.replace(".", "/"))
    found = importlib.import_module("videosys.models.transformers.open_sora_transformer_3d")
    config = found.STDiT3Config(
        hidden_size=WIDTH, depth=3, num_heads=2, caption_channels=TEXT, model_max_length=WORDS, class_dropout_prob=0.0
    )
    model = found.STDiT3(config)
    lively(model)
    for module in model.modules():
        if hasattr(module, "parallel_manager"):
            module.parallel_manager = SimpleNamespace(sp_size=1, cp_size=1)
    loop = importlib.import_module("videosys.schedulers.scheduling_rflow_open_sora").RFLOW(
        num_sampling_steps=STEPS, cfg_scale=7.0, use_timestep_transform=True
    )

    def given(*shape: int, seed: int) -> Tensor:
        return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))

    def sample() -> Any:
        torch.manual_seed(0)
        sizes = {"height": 32.0, "width": 32.0, "num_frames": 51.0, "ar": 1.0, "fps": 24.0}
        told: dict[str, Any] = {name: torch.tensor([value]) for name, value in sizes.items()}
        told["mask"] = torch.tensor([[1, 1, 1, 0, 0, 0]])
        told["y"] = given(1, WORDS, TEXT, seed=10)
        null = model.y_embedder.y_embedding[None, None]
        with torch.no_grad():
            return loop.sample(model, given(4, 2, 4, 4, seed=0), told, null, "cpu", progress=False)

    return Sampler(model, sample, STEPS, ("call0",))


REPOSITORY, STUBBED = "NUS-HPC-AI-Lab/VideoSys", "colossalai, text encoder, VAE"
DENOISER = "videosys.models.transformers.open_sora_transformer_3d.STDiT3"
CASES = (
    Case("videosys", REPOSITORY, DENOISER, "RFLOW.sample", opened, STUBBED),
)  # fmt: skip
