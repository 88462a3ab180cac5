"""Open-Sora-Plan: its pipelines as they stand, over given features of the texts."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import provide, shell, stub, stub_absent

STEPS = 8
WORDS, WIDTH, TEXT = 6, 24, 12
SIZE = {"num_frames": 5, "height": 32, "width": 32}


def opened(folder: Path, *packages: str) -> None:
    """The packages of the repository, without what their `__init__` would fetch."""
    stub_absent("wandb", "bs4", "xformers", "torchvision", "decord", "av", "imageio", "cv2", "tensorboard",
                "deepspeed", "matplotlib")  # fmt: skip
    stub("torch.utils.tensorboard")
    outputs = importlib.import_module("diffusers.models.modeling_outputs")
    transformers = importlib.import_module("diffusers.models.transformers.transformer_2d")
    provide("diffusers.models.transformer_2d", Transformer2DModelOutput=outputs.Transformer2DModelOutput,
            Transformer2DModel=transformers.Transformer2DModel)  # fmt: skip
    known = importlib.import_module("transformers")
    for name in ("MT5Tokenizer", "T5Tokenizer"):  # annotations only
        if not hasattr(known, name):
            setattr(known, name, object)
    torch.backends.cuda.sdp_kernel = lambda **_: nullcontext()  # type: ignore[assignment]
    for name in ("opensora", "opensora.models", "opensora.models.diffusion", "opensora.sample", "opensora.utils"):
        shell(name, folder / name.replace(".", "/"))
    for name in packages:
        shell(name, folder / name.replace(".", "/"))


def sampler(kind: Any, model: Any, parts: dict[str, Any], count: int, **call: Any) -> Sampler:
    """The pipeline on a model; `count` prompts, each with noise and text of its own."""
    scheduler = importlib.import_module("diffusers").EulerAncestralDiscreteScheduler()
    pipe = kind(vae=None, text_encoder=None, tokenizer=None, transformer=model, scheduler=scheduler, **parts)
    pipe.vae = SimpleNamespace(vae_scale_factor=(4, 8, 8))
    pipe.check_inputs = lambda *_, **__: None  # it wants a prompt in words beside the features
    pipe.set_progress_bar_config(disable=True)

    def given(which: list[int], *shape: int, seed: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in which])

    def sample(which: list[int]) -> Any:
        torch.manual_seed(0)
        mask = torch.tensor([[i < 4 + sample for i in range(WORDS)] for sample in which]).long()
        generators = [torch.Generator().manual_seed(i) for i in which]
        return pipe(
            **SIZE, num_inference_steps=STEPS, guidance_scale=5.0, output_type="latent", return_dict=False,
            latents=given(which, 4, 2, 4, 4, seed=1), prompt_embeds=given(which, WORDS, TEXT, seed=10),
            negative_prompt_embeds=given(which, WORDS, TEXT, seed=20), prompt_attention_mask=mask,
            negative_prompt_attention_mask=torch.ones_like(mask), negative_prompt=None, generator=generators, **call,
        )[0]  # fmt: skip

    alone = tuple(Sampler(pipe, partial(sample, [i]), STEPS, ("call0",), told=False) for i in range(count))
    if count == 1:
        return alone[0]
    return Sampler(pipe, lambda: sample([0, 1]), STEPS, ("call0",) * count, told=False, alone=alone)


SETTINGS = {
    "num_attention_heads": 1, "attention_head_dim": WIDTH, "in_channels": 4, "out_channels": 4, "num_layers": 4,
    "patch_size": 2, "patch_size_t": 1, "cross_attention_dim": WIDTH, "caption_channels": TEXT, "attention_bias": True,
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "activation_fn": "gelu-approximate", "sample_size_t": 2,
}  # fmt: skip


def latest(folder: Path, count: int = 1) -> Sampler:
    """1.3: sparse attention in some blocks, and tokens before the batch."""
    opened(folder, "opensora.models.diffusion.opensora_v1_3")
    found = importlib.import_module("opensora.models.diffusion.opensora_v1_3.modeling_opensora")
    model = found.OpenSoraT2V_v1_3(**SETTINGS, sample_size_h=4, sample_size_w=4, sparse1d=True, sparse_n=4)
    lively(model)
    kind = importlib.import_module("opensora.sample.pipeline_opensora").OpenSoraPipeline
    return sampler(kind, model, {}, count)


def middle(folder: Path, count: int = 1) -> Sampler:
    """1.2: full attention over space and time."""
    opened(folder, "opensora.models.diffusion.opensora")
    found = importlib.import_module("opensora.models.diffusion.opensora.modeling_opensora")
    model = found.OpenSoraT2V(**SETTINGS, sample_size=4, norm_type="ada_norm_single", attention_mode="math")
    lively(model)
    kind = importlib.import_module("opensora.sample.pipeline_opensora").OpenSoraPipeline
    return sampler(kind, model, {}, count, clean_caption=False, use_resolution_binning=False)


REPOSITORY, STUBBED = "PKU-YuanGroup/Open-Sora-Plan", "CUDA's attention kernels, torch_npu, text encoder, VAE"
MODELS = "opensora.models.diffusion"
CASES = (
    Case("plan-1.2", REPOSITORY, f"{MODELS}.opensora.modeling_opensora.OpenSoraT2V", "OpenSoraPipeline", middle,
         STUBBED),
    Case("plan-1.2-batch", REPOSITORY, f"{MODELS}.opensora.modeling_opensora.OpenSoraT2V",
         "OpenSoraPipeline, two prompts", lambda folder: middle(folder, 2), STUBBED),
    Case("plan-1.3", REPOSITORY, f"{MODELS}.opensora_v1_3.modeling_opensora.OpenSoraT2V_v1_3", "OpenSoraPipeline",
         latest, STUBBED),
    Case("plan-1.3-batch", REPOSITORY, f"{MODELS}.opensora_v1_3.modeling_opensora.OpenSoraT2V_v1_3",
         "OpenSoraPipeline, two prompts", lambda folder: latest(folder, 2), STUBBED),
)  # fmt: skip
