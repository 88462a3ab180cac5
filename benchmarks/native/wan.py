"""Wan 2.1 and 2.2: `generate` of each task as it stands, with latents, texts and pictures in place of encoders."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import attention, shell, stub, stub_absent

STEPS = 8
TINY = {"text_len": 6, "dim": 24, "ffn_dim": 32, "freq_dim": 16, "text_dim": 12, "num_heads": 2, "num_layers": 4}
CPU = torch.device("cpu")
STUBBED = "flash_attn (plain attention), text encoder, VAE"


class Texts:
    """A text encoder: as many features as the prompt has letters, at most six."""

    model = torch.nn.Identity()

    def __call__(self, prompts: list[str], device: Any) -> list[Tensor]:
        """A list of features `[words, 12]`."""
        return [torch.randn(min(len(p), 6), 12, generator=torch.Generator().manual_seed(len(p))) for p in prompts]


class Latents:
    """A VAE that passes latents on."""

    model = SimpleNamespace(z_dim=4)

    def decode(self, latents: Any) -> Any:
        """Keeps or passes on the latents."""
        return latents

    def encode(self, pictures: list[Tensor]) -> list[Tensor]:
        """Latents `[4, 1, H/8, W/8]` of each picture."""
        return [torch.randn(4, 1, *(side // 8 for side in p.shape[-2:]), generator=seeded(7)) for p in pictures]


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def opened(folder: Path, module: str) -> Any:
    """A module of the package, which without CUDA cannot be imported as a whole."""
    stub_absent("flash_attn", "easydict", "torchvision", "decord", "librosa", "cv2", "xfuser", "torchaudio", "imageio")
    stub("wan.modules.t5", "wan.modules.vae", "wan.modules.clip", "wan.modules.vae2_1", "wan.modules.vae2_2")
    stub("wan.distributed.fsdp")
    for name in ("wan", "wan.modules", "wan.distributed", "wan.utils"):
        shell(name, folder / name.replace(".", "/"))
    found = importlib.import_module(module)
    code: Any = importlib.import_module("wan.modules.model")
    code.flash_attention = attention
    return found


def task(kind: Any, **parts: Any) -> Any:
    """A task object without what its constructor loads from disk."""
    made = kind.__new__(kind)
    common = {
        "device": CPU, "rank": 0, "t5_cpu": False, "sp_size": 1, "init_on_cpu": False,
        "num_train_timesteps": 1000, "param_dtype": torch.float32, "sample_neg_prompt": "bad",
        "text_encoder": Texts(), "vae": Latents(), "vae_stride": (4, 8, 8), "patch_size": (1, 2, 2),
    }  # fmt: skip
    vars(made).update(common | parts)
    return made


def model(kind: Any, **settings: Any) -> Any:
    """A tiny model with lively weights."""
    made = kind(**TINY | {"in_dim": 4, "out_dim": 4} | settings)
    lively(made)
    return made


def asked(**more: Any) -> dict[str, Any]:
    """What is asked of `generate`."""
    return {"size": (64, 64), "frame_num": 9, "sampling_steps": STEPS, "seed": 0, "offload_model": False, **more}


def text_to_video(folder: Path, solver: str) -> Sampler:
    """Text to video."""
    found = opened(folder, "wan.text2video")
    wan = task(found.WanT2V, model=model(found.WanModel))
    return Sampler(
        wan.model, lambda: wan.generate("a cat", **asked(sample_solver=solver)), STEPS, ("call0", "call1"), forwards=2
    )


def two_experts(folder: Path) -> Sampler:
    """Wan 2.2's two models, as one target."""
    found = opened(folder, "wan.text2video")
    high, low = model(found.WanModel), model(found.WanModel)
    wan = task(found.WanT2V, high_noise_model=high, low_noise_model=low, boundary=0.875)
    both = SimpleNamespace(components={"high": high, "low": low})
    asked_for = asked(guide_scale=(3.0, 4.0), shift=12.0)
    return Sampler(both, lambda: wan.generate("a cat", **asked_for), STEPS, ("call0", "call1"), forwards=2)


def video_creation(folder: Path) -> Sampler:
    """VACE: hints for some blocks are made of a video that is given, before the blocks run."""
    found = opened(folder, "wan.vace")
    made = model(found.VaceWanModel, vace_layers=[0, 2], vace_in_dim=6)
    wan = task(found.WanVace, model=made)
    wan.vace_encode_frames = lambda frames, *_, **__: [torch.randn(8, 3, 8, 8, generator=seeded(5))]
    wan.vace_encode_masks = lambda *_: [torch.randn(2, 3, 8, 8, generator=seeded(6))]
    wan.vace_latent = lambda frames, masks: [torch.cat([frames[0][:4], masks[0]])]
    wan.decode_latent = lambda latents, _: latents
    call = {key: value for key, value in asked().items() if key != "seed"}
    return Sampler(
        made, lambda: wan.generate("a cat", None, None, None, seed=0, **call), STEPS, ("call0", "call1"), forwards=2
    )


def text_and_image(folder: Path, picture: bool) -> Sampler:
    """Wan 2.2 5B: a time per token; those of a given picture stand at 0."""
    found = opened(folder, "wan.textimage2video")
    found.TF.to_tensor = lambda image: torch.rand(3, image.height, image.width, generator=seeded(8))
    wan = task(found.WanTI2V, model=model(found.WanModel, model_type="ti2v"))
    given = {"img": Image.new("RGB", (64, 64)), "max_area": 64 * 64} if picture else {}
    return Sampler(wan.model, lambda: wan.generate("a cat", **given, **asked()), STEPS, ("call0", "call1"), forwards=2)


CASES = (
    Case("wan2.1", "Wan-Video/Wan2.1", "wan.modules.model.WanModel", "WanT2V.generate, UniPC",
         lambda folder: text_to_video(folder, "unipc")),
    Case("wan2.1-dpm", "Wan-Video/Wan2.1", "wan.modules.model.WanModel", "WanT2V.generate, DPM++",
         lambda folder: text_to_video(folder, "dpm++")),
    Case("wan2.1-vace", "Wan-Video/Wan2.1", "wan.modules.vace_model.VaceWanModel", "WanVace.generate", video_creation,
         f"{STUBBED}, latents of the given video"),
    Case("wan2.2-ti2v", "Wan-Video/Wan2.2", "wan.modules.model.WanModel", "WanTI2V.generate",
         lambda folder: text_and_image(folder, picture=False)),
    Case("wan2.2-ti2v-picture", "Wan-Video/Wan2.2", "wan.modules.model.WanModel", "WanTI2V.generate, a picture given",
         lambda folder: text_and_image(folder, picture=True), f"{STUBBED}, latents of the picture"),
    Case("wan2.2-a14b", "Wan-Video/Wan2.2", "wan.modules.model.WanModel, two experts", "WanT2V.generate",
         two_experts),
)  # fmt: skip
