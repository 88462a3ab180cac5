"""Open-Sora 1.0 to 2.0: the schedulers' own loops, over a stand-in for the text encoder."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import attention, on_cpu, provide, provide_xformers, shell, stub, stub_absent

STEPS = 8
WIDTH, TEXT, WORDS = 24, 12, 6
PROMPTS = ["a cat", "a dog that runs", "fog"]
STUBBED = "xformers (plain attention), colossalai"


class Texts:
    """Features of at most six words for a prompt, with their mask, as the T5 of Open-Sora gives them."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode(self, prompts: list[str], **_: Any) -> dict[str, Tensor]:
        """Features and mask of the prompts."""

        def features(prompt: str) -> Tensor:
            return torch.randn(1, WORDS, TEXT, generator=torch.Generator().manual_seed(len(prompt)))

        mask = torch.tensor([[i <= len(prompt.split()) for i in range(WORDS)] for prompt in prompts]).long()
        return {"y": torch.stack([features(prompt) for prompt in prompts]), "mask": mask}

    def tokenize_fn(self, prompts: list[str]) -> dict[str, Any]:
        """The prompts themselves."""
        return {"prompts": prompts}

    def null(self, n: int) -> Tensor:
        """The text of the unconditional branch."""
        return self.model.y_embedder.y_embedding[None].repeat(n, 1, 1)[:, None]


def opened(folder: Path, module: str) -> Any:
    """Imports what is needed from the checkout, with stubs for the rest."""
    on_cpu()
    provide_xformers()
    stub_absent("colossalai", "torchvision", "tensorboard", "pandas", "av", "cv2", "apex", "flash_attn", "openai")
    stub("opensora.utils.ckpt_utils", "opensora.datasets")
    for name in ("opensora", "opensora.models", "opensora.models.stdit", "opensora.utils", "opensora.acceleration"):
        shell(name, folder / name.replace(".", "/"))
    return importlib.import_module(module)


def noise(count: int, frames: int = 2, channels: int = 4) -> Tensor:
    """Of each sample its own, whatever the batch."""
    return torch.stack(
        [torch.randn(channels, frames, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    )


def sizes(count: int) -> dict[str, Tensor]:
    """As the script's `prepare_multi_resolution_info` makes them."""
    told = {"height": 32.0, "width": 32.0, "num_frames": 51.0, "ar": 1.0, "fps": 24.0}
    return {name: torch.tensor([value]).repeat(count) for name, value in told.items()}


SETTINGS = {
    "hidden_size": WIDTH, "depth": 3, "num_heads": 2, "caption_channels": TEXT, "model_max_length": WORDS,
    "in_channels": 4, "class_dropout_prob": 0.0,
}  # fmt: skip


def iddpm(folder: Path, first: bool, count: int = 1) -> Sampler:
    """1.0 (`first`) and 1.1: diffusion, through the model's `forward`."""
    module = opened(folder, f"opensora.models.stdit.stdit{'' if first else '2'}")
    kind = module.STDiT if first else module.STDiT2
    model = kind(input_size=(2, 4, 4), **SETTINGS) if first else kind(module.STDiT2Config(**SETTINGS))
    lively(model)
    found = importlib.import_module("opensora.schedulers.iddpm")
    if "device" in inspect.signature(found.gd.GaussianDiffusion).parameters:
        found.gd.GaussianDiffusion.__init__.__kwdefaults__ = {"device": "cpu"}
    scheduler = found.IDDPM(num_sampling_steps=STEPS, cfg_scale=7.0)

    def sample(prompts: list[str], z: Tensor) -> Any:
        torch.manual_seed(0)
        given = (z.shape[1:] if first else z, prompts, "cpu")
        with torch.no_grad():
            return scheduler.sample(model, Texts(model), *given, additional_args=None if first else sizes(len(z)))

    return one_or_more(model, sample, count)


def one_or_more(model: Any, sample: Any, count: int) -> Sampler:
    """A sampler of the first prompts; a batch of these models decides as one."""
    z = noise(count)
    return Sampler(model, lambda: sample(PROMPTS[:count], z), STEPS, ("call0",))


def rflow(folder: Path, count: int = 1, **settings: Any) -> Sampler:
    """1.2 and 1.3: rectified flow."""
    module = opened(folder, "opensora.models.stdit.stdit3")
    model = module.STDiT3(module.STDiT3Config(**SETTINGS, **settings))
    lively(model)
    scheduler = importlib.import_module("opensora.schedulers.rf").RFLOW(
        num_sampling_steps=STEPS, cfg_scale=7.0, use_timestep_transform=True
    )

    def sample(prompts: list[str], z: Tensor) -> Any:
        torch.manual_seed(0)
        with torch.no_grad():
            return scheduler.sample(model, Texts(model), z, prompts, "cpu", additional_args=sizes(len(z)))

    return one_or_more(model, sample, count)


def given_frames(folder: Path) -> Sampler:
    """1.2 with frames that are given: their tokens keep times of their own."""
    module = opened(folder, "opensora.models.stdit.stdit3")
    model = module.STDiT3(module.STDiT3Config(**SETTINGS))
    lively(model)
    scheduler = importlib.import_module("opensora.schedulers.rf").RFLOW(num_sampling_steps=STEPS, cfg_scale=7.0)

    def sample() -> Any:
        torch.manual_seed(0)
        with torch.no_grad():
            return scheduler.sample(
                model, Texts(model), noise(1, 3), PROMPTS[:1], "cpu", additional_args=sizes(1),
                mask=torch.tensor([[0.0, 0.5, 1.0]]),
            )  # fmt: skip

    return Sampler(model, sample, STEPS, ("call0",))


def two(folder: Path, method: str, dtype: torch.dtype, steps: int = STEPS, tokens: int = 256) -> Sampler:
    """2.0: its denoisers, over the packed latents of `prepare`."""
    provide("flash_attn", flash_attn_func=attention)
    stub_absent(
        "liger_kernel",
        "colossalai",
        "mmengine",
        "torchvision",
        "pandas",
        "av",
        "cv2",
        "decord",
        "tensorboard",
        "openai",
    )
    stub("opensora.utils.ckpt", "opensora.datasets", "opensora.models.text")
    for name in ("opensora", "opensora.models", "opensora.models.mmdit", "opensora.utils", "opensora.acceleration"):
        shell(name, folder / name.replace(".", "/"))
    made, sampling = (importlib.import_module(f"opensora.{m}") for m in ("models.mmdit.model", "utils.sampling"))
    config = made.MMDiTConfig(
        from_pretrained="", cache_dir="", in_channels=16, vec_in_dim=8, context_in_dim=12, hidden_size=32,
        mlp_ratio=2.0, num_heads=2, depth=2, depth_single_blocks=3, axes_dim=[4, 6, 6], theta=10000, qkv_bias=True,
        guidance_embed=method == "distill", cond_embed=method == "i2v",
    )  # fmt: skip
    model = made.MMDiTModel(config)
    rms_norm_in_torch(importlib.import_module("opensora.models.mmdit.layers"))
    lively(model)
    model.to(dtype)
    denoiser = sampling.SamplingMethodDict[sampling.SamplingMethod(method)]
    return Sampler(model, lambda: denoised(sampling, denoiser, model, method, (steps, tokens)), steps, ("call0",))


def rms_norm_in_torch(layers: Any) -> None:
    """The fused norm, in torch."""

    def apply(x: Tensor, scale: Tensor, eps: float, *_: Any) -> Tensor:
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * scale

    layers.LigerRMSNormFunction = type("RMSNorm", (), {"apply": staticmethod(apply)})


def denoised(sampling: Any, denoiser: Any, model: Any, method: str, schedule: tuple[int, int]) -> Tensor:
    """One run of a denoiser, with the schedule of so many steps for so many tokens of a frame."""
    dtype = next(model.parameters()).dtype

    def words(width: int, *shape: int) -> Any:
        def encoded(prompts: list[str], **_: Any) -> Tensor:
            return torch.stack(
                [torch.randn(*shape, width, generator=torch.Generator().manual_seed(len(p))) for p in prompts]
            )

        return encoded

    with torch.inference_mode():
        z = sampling.get_noise(1, 64, 64, 3, torch.device("cpu"), dtype, seed=0, channel=4)
        text, _ = denoiser.prepare_guidance(["a cat"], {}, torch.device("cpu"), dtype, neg=None, guidance_img=3.0)
        given = sampling.prepare(words(12, 5), words(8), z, prompt=text)
        if method == "i2v":
            given |= {"masks": torch.zeros_like(z[:, :1]), "masked_ref": torch.zeros_like(z), "sigma_min": 1e-5,
                      "guidance_img": 3.0, "text_osci": True, "image_osci": True}  # fmt: skip
        times = sampling.get_schedule(*schedule, 33)  # of 129 frames
        return denoiser.denoise(model, **given, timesteps=times, guidance=7.5)


REPOSITORY = "hpcaitech/Open-Sora"
IN_2 = "flash_attn and the fused norm of liger_kernel (plain torch), colossalai, text encoders"
CASES = (
    Case("open-sora-1.0", REPOSITORY, "opensora.models.stdit.stdit.STDiT", "IDDPM.sample",
         lambda folder: iddpm(folder, first=True), STUBBED),
    Case("open-sora-1.1", REPOSITORY, "opensora.models.stdit.stdit2.STDiT2", "IDDPM.sample",
         lambda folder: iddpm(folder, first=False), STUBBED),
    Case("open-sora-1.1-batch", REPOSITORY, "opensora.models.stdit.stdit2.STDiT2", "IDDPM.sample, two prompts",
         lambda folder: iddpm(folder, first=False, count=2), STUBBED),
    Case("open-sora-1.2", REPOSITORY, "opensora.models.stdit.stdit3.STDiT3", "RFLOW.sample", rflow, STUBBED),
    Case("open-sora-1.2-batch", REPOSITORY, "opensora.models.stdit.stdit3.STDiT3", "RFLOW.sample, two prompts",
         lambda folder: rflow(folder, 2), STUBBED),
    Case("open-sora-1.2-frames", REPOSITORY, "opensora.models.stdit.stdit3.STDiT3", "RFLOW.sample, frames given",
         given_frames, STUBBED),
    Case("open-sora-1.3", REPOSITORY, "opensora.models.stdit.stdit3.STDiT3", "RFLOW.sample",
         lambda folder: rflow(folder), STUBBED),
    Case("open-sora-2.0", REPOSITORY, "opensora.models.mmdit.model.MMDiTModel", "I2VDenoiser.denoise",
         lambda folder: two(folder, "i2v", torch.float32), IN_2),
    Case("open-sora-2.0-bfloat16", REPOSITORY, "opensora.models.mmdit.model.MMDiTModel",
         "I2VDenoiser.denoise, bfloat16, 50 steps, schedule of 256 pixels",
         lambda folder: two(folder, "i2v", torch.bfloat16, 50), IN_2),
    Case("open-sora-2.0-768px", REPOSITORY, "opensora.models.mmdit.model.MMDiTModel",
         "I2VDenoiser.denoise, bfloat16, 50 steps, schedule of 768 pixels",
         lambda folder: two(folder, "i2v", torch.bfloat16, 50, 2304), IN_2),
    Case("open-sora-2.0-distilled", REPOSITORY, "opensora.models.mmdit.model.MMDiTModel", "DistilledDenoiser.denoise",
         lambda folder: two(folder, "distill", torch.float32), IN_2),
)  # fmt: skip
