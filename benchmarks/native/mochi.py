"""Mochi: `sample_model`, guidance in two forwards (a batch needs flash attention)."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import shell, stub_absent

STEPS = 8
WORDS, WIDTH = 8, 16


def on_cpu() -> None:
    """What it asks of CUDA when imported, and its autocast."""
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(major=8.0)  # type: ignore[assignment]
    autocast = torch.autocast

    def here(kind: str, **settings: Any) -> Any:
        return autocast("cpu", **settings)

    torch.autocast = here  # type: ignore[assignment,misc]


def opened(folder: Path) -> Sampler:
    """Imports what is needed from the checkout, with stubs for the rest."""
    on_cpu()
    stub_absent("ray", "flash_attn", "sageattention", "torchvision", "click", "moviepy")
    for name in ("genmo", "genmo.mochi_preview"):
        shell(name, folder / "src" / name.replace(".", "/"))
    found: Any = importlib.import_module("genmo.mochi_preview.dit.joint_model.asymm_models_joint")
    found.sdpa_kernel, found.sdpa_attn_ctx = (lambda *_: nullcontext()), (lambda **_: nullcontext())
    pipelines = importlib.import_module("genmo.mochi_preview.pipelines")
    model = found.AsymmDiTJoint(
        in_channels=12, hidden_size_x=1536, hidden_size_y=24, depth=3, num_heads=2, mlp_ratio_x=8.0, mlp_ratio_y=2.0,
        t5_feat_dim=WIDTH, t5_token_length=WORDS, qk_norm=True, qkv_bias=False, out_bias=True, attention_mode="sdpa",
    )  # fmt: skip
    lively(model, scale=0.02)

    def conditioned(words: int) -> dict[str, Any]:
        feat = torch.randn(1, WORDS, WIDTH, generator=torch.Generator().manual_seed(words))
        return {"y_feat": [feat], "y_mask": [torch.arange(WORDS)[None] < words]}

    def sample() -> Any:
        with torch.no_grad():
            return pipelines.sample_model(
                torch.device("cpu"), model, {"cond": conditioned(5), "null": conditioned(2)}, seed=0, width=32,
                height=32, num_frames=7, num_inference_steps=STEPS, cfg_schedule=[4.5] * STEPS,
                sigma_schedule=[*torch.linspace(1, 0, STEPS + 1).tolist()],
            )  # fmt: skip

    return Sampler(model, sample, STEPS, ("call0", "call1"), forwards=2)


CASES = (
    Case("mochi", "genmoai/mochi", "genmo.mochi_preview.dit.joint_model.asymm_models_joint.AsymmDiTJoint",
         "sample_model, guidance in two forwards", opened, "CUDA's autocast and attention backends, text encoder"),
)  # fmt: skip
