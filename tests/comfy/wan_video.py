"""WanVideoWrapper: a look-alike of its contract, and the real one where `BWCACHE_WANVIDEO` names a copy of it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from tests.comfy.comfyui import CHECKOUT, comfy, filled

COPY = os.environ.get("BWCACHE_WANVIDEO", "")
IS_REAL = bool(COPY and CHECKOUT)
WIDTH = 8
SHIFT = 5.0


class Patcher:
    """ComfyUI's model patcher as far as the wrapper's models are handed on in one."""

    def __init__(self, model: Any) -> None:
        self.model, self.attachments = model, dict[str, Any]()
        self.model_options: dict[str, Any] = {"transformer_options": {"merge_loras": True}}

    def clone(self) -> Patcher:
        """Another one of the same model."""
        made = copy(self)
        made.attachments = dict(self.attachments)
        made.model_options = {name: dict(value) for name, value in self.model_options.items()}
        return made

    def set_attachments(self, key: str, attachment: Any) -> None:
        """Hang something on it."""
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        """What hangs on it."""
        return self.attachments.get(key)


class Block(nn.Module):
    """Moves each token on by what is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return tokens `[N, C]`."""
        return x + 0.3 * torch.tanh(self.linear(x) + text)


class WanModel(nn.Module):
    """Takes a list of latents `[C, F, H, W]`, and returns a list and two other things."""

    is_longcat, audio_model = False, None
    slg_blocks: Any = None
    slg_start_percent, slg_end_percent = 0.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(1, WIDTH), nn.Linear(WIDTH, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(
        self,
        x: Any,
        t: Tensor,
        context: Any,
        seq_len: int,
        is_uncond: bool = False,
        current_step_percentage: float = 0.0,
        current_step: int = 0,
        last_step: bool = False,
        y: Any = None,
        pred_id: Any = None,
        vace_data: Any = None,
        mtv_strength: Any = 1.0,
        transformer_options: Any = None,
    ) -> Any:
        """Return the prediction, that of the sound, and a place in a cache."""
        latents = x[0]
        hint = 0.0 if y is None else y[0].mean()
        for given in vace_data or ():
            hint += given["scale"] if given["start"] <= current_step_percentage <= given["end"] else 0.0
        tokens = self.enter(latents.reshape(-1, 1)) + t.max() / 1000 + hint
        text = context[0].mean(0)[:WIDTH]
        for number, block in enumerate(self.blocks):
            skipped = self.slg_blocks is not None and number in self.slg_blocks and is_uncond
            if not (skipped and self.slg_start_percent <= current_step_percentage <= self.slg_end_percent):
                tokens = block(tokens, text)
        return [self.leave(tokens).reshape(latents.shape).float()], None, None


def get_scheduler(name: str, steps: int, start_step: int, end_step: int, shift: float) -> Any:
    """Return a scheduler, its times, and where it starts and ends."""
    even = torch.linspace(1, 0, steps + 1)
    sigmas = (shift * even / (1 + (shift - 1) * even))[start_step : None if end_step < 0 else end_step + 1]
    return SimpleNamespace(sigmas=sigmas, step=None), 1000 * sigmas[:-1], start_step, end_step


class WanVideoSampler:
    """Its node, with as many of its inputs as matter here."""

    def process(
        self,
        model: Any,
        image_embeds: Any,
        steps: int,
        cfg: float,
        shift: float,
        seed: int,
        scheduler: Any,
        text_embeds: Any = None,
        context_options: Any = None,
        cache_args: Any = None,
        loop_args: Any = None,
        slg_args: Any = None,
        start_step: int = 0,
        end_step: int = -1,
        samples: Any = None,
        **_: Any,
    ) -> Any:
        """Sample."""
        transformer = model.model.diffusion_model
        if slg_args is not None:
            transformer.slg_blocks = slg_args["blocks"]
            transformer.slg_start_percent, transformer.slg_end_percent = slg_args["start"], slg_args["end"]
        if isinstance(scheduler, dict):
            made, times = scheduler["sample_scheduler"], scheduler["timesteps"]
        else:
            made, times, _, _ = get_scheduler(scheduler, steps, start_step, end_step, shift)
        noise = torch.randn(image_embeds["target_shape"], generator=torch.Generator().manual_seed(seed))
        latents = noise if samples is None else samples["samples"][0]
        for index, time in enumerate(times):
            share = index / len(times)
            said = {
                **{"t": torch.tensor([time]), "seq_len": 0, "current_step": index, "current_step_percentage": share},
                **{"last_step": index == len(times) - 1, "x": [latents], "transformer_options": {}},
                **{"vace_data": image_embeds.get("vace"), "y": self.control(image_embeds, share)},
            }
            cond, _, _ = transformer(context=text_embeds["prompt_embeds"], **said)
            uncond, _, _ = transformer(context=text_embeds["negative_prompt_embeds"], is_uncond=True, **said)
            velocity = uncond[0] + cfg * (cond[0] - uncond[0])
            latents = latents + (made.sigmas[index + 1] - made.sigmas[index]) * velocity
            if index == image_embeds.get("cancelled at"):
                raise InterruptedError
        return {"samples": latents[None]}, {}

    def control(self, image_embeds: Any, share: float) -> Any:
        """A picture to go by that begins in the middle: before, there are zeros in its place."""
        picture = image_embeds.get("control")
        return None if picture is None else [picture if share >= 0.4 else torch.zeros_like(picture)]


@dataclass
class Wrapper:
    """A copy of the wrapper, or its look-alike.

    Attributes:
        sampler: the class of its sampler node.
        model: makes a patcher with a tiny model.
        shape: of the latents.
        more: what its sampler node is told beside.
    """

    sampler: type
    model: Callable[[], Any]
    shape: tuple[int, ...] = (1, 2, 4, 4)
    more: dict[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def sampled(self, model: Any, **changed: Any) -> Tensor:
        """The latents that its sampler node makes, as ComfyUI calls it."""
        generator = torch.Generator().manual_seed(7)
        texts = [torch.randn(length, 4096, generator=generator) for length in (12, 9)]
        given: dict[str, Any] = {
            "image_embeds": {"target_shape": self.shape, "num_frames": 9, "has_ref": False} | changed.pop("embeds", {}),
            "text_embeds": {"prompt_embeds": texts[:1], "negative_prompt_embeds": texts[1:]},
            **{"shift": SHIFT, "steps": 16, "cfg": 4.0, "seed": 1, "scheduler": "euler", **self.more, **changed},
        }
        made: Tensor = self.sampler().process(model=model, **given)[0]["samples"]  # type: ignore[attr-defined]
        return made

    def scheduled(self, steps: int = 16) -> tuple[Any, list[float]]:
        """Its scheduler, and the times of a run."""
        device = [torch.device("cpu")] if self.more else []
        made, times, *_ = sys.modules[self.sampler.__module__].get_scheduler("euler", steps, 0, -1, SHIFT, *device)
        return made, [float(time) for time in times]


def look_alike() -> Wrapper:
    """The one that is written here."""
    return Wrapper(
        type("WanVideoSampler", (WanVideoSampler,), {"process": WanVideoSampler.process}),
        lambda: Patcher(SimpleNamespace(diffusion_model=WanModel().eval())),
    )


def real() -> Wrapper:
    """The real one, with a tiny model of its own class."""
    comfy()
    before, sys.argv = sys.argv, ["main.py", "--cpu"]
    try:
        importlib.import_module("utils.install_util")
        importlib.import_module("server").PromptServer.instance = MagicMock()
        importlib.import_module("nodes")
        for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
            sys.modules[name] = MagicMock()  # that of PyPI is built for CUDA
        path = Path(COPY).expanduser()
        spec = importlib.util.spec_from_file_location(
            "wan_video_wrapper", path / "__init__.py", submodule_search_locations=[str(path)]
        )
        assert spec is not None
        assert spec.loader is not None
        pack = sys.modules["wan_video_wrapper"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(pack)
    finally:
        sys.argv = before
    more = {"riflex_freq_index": 0, "force_offload": False, "rope_function": "comfy"}
    return Wrapper(pack.NODE_CLASS_MAPPINGS["WanVideoSampler"], lambda: tiny(pack), (16, 3, 8, 8), more)


def tiny(pack: ModuleType) -> Any:
    """A patcher as its loader makes it, around a model of four blocks."""
    loading = sys.modules[f"{pack.__name__}.nodes_model_loading"]
    kind: Any = sys.modules[f"{pack.__name__}.wanvideo.modules.model"].WanModel  # type: ignore[attr-defined]
    cpu, width = torch.device("cpu"), 256
    module = kind(
        **{"dim": width, "in_features": width, "out_features": width, "ffn_dim": 256, "ffn2_dim": 256, "num_heads": 2},
        **{"patch_size": (1, 2, 2), "num_layers": 4, "model_type": "t2v", "in_dim": 16, "out_dim": 16, "cond_dim": 0},
        **{"main_device": cpu, "offload_device": cpu, "dtype": torch.float32, "attention_mode": "sdpa"},
    ).eval()
    for block in module.blocks:  # the loader puts the weights of files in their place, whatever they were made as
        block.cross_attn.k, block.cross_attn.v = nn.Linear(width, width), nn.Linear(width, width)
    module.load_state_dict(filled(module), strict=False)
    latent_format = importlib.import_module("comfy.latent_formats").Wan21
    base = loading.WanVideoModel(loading.WanVideoModelConfig(latent_format=latent_format), module, cpu)  # type: ignore[attr-defined]
    base.load_device = cpu
    for name in ("fp8_matmul", "control_lora", "auto_cpu_offload"):
        base[name] = False
    for name in ("gguf_reader", "compile_args", "sd"):
        base[name] = None
    base["base_dtype"] = base["weight_dtype"] = torch.float32
    base["quantization"] = "disabled"
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher(base, cpu, cpu)
    patcher.model.is_patched = False
    patcher.model_options["transformer_options"] = {"merge_loras": True}
    return patcher
