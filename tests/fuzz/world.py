"""The models that scenarios are played on: real classes with very tiny random weights, and how each is called.

Built once in a process and never run: every scenario works on a copy (`Kind.fresh`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusion3PAGPipeline,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from tests import tiny
from tests.fuzz.scenario import Call
from tests.tiny import noise
from tests.zoo import flux as flux_zoo
from tests.zoo import latte as latte_zoo
from tests.zoo import sd3 as sd3_zoo
from tests.zoo import unets

FLOW: dict[str, Callable[[], Any]] = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "euler unshifted": lambda: FlowMatchEulerDiscreteScheduler(),
    "heun": lambda: FlowMatchHeunDiscreteScheduler(),
    "ancestral": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True),
    "lcm": lambda: FlowMatchLCMScheduler(shift=3.0),
    "unipc": lambda: UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    "dpm": lambda: DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}

VARIANCE: dict[str, Callable[[], Any]] = {
    "ddim": lambda: DDIMScheduler(clip_sample=False),
    "euler": lambda: EulerDiscreteScheduler(),
    "heun": lambda: HeunDiscreteScheduler(),
    "ancestral": lambda: EulerAncestralDiscreteScheduler(),
    "lcm": lambda: LCMScheduler(),
    "pndm": lambda: PNDMScheduler(skip_prk_steps=True),
    "dpm": lambda: DPMSolverMultistepScheduler(),
    "unipc": lambda: UniPCMultistepScheduler(),
    "cogvideox ddim": lambda: CogVideoXDDIMScheduler(),
    "cogvideox dpm": lambda: CogVideoXDPMScheduler(),
}


DRAWING = ("ancestral", "lcm")
"""Schedulers that draw noise in each step, perhaps from torch's one generator: no two of them at once."""


@dataclass(frozen=True)
class Kind:
    """A pipeline with tiny components, and how it is called.

    Attributes:
        name: what scenarios call it.
        build: makes the pipeline.
        sizes: the arguments that say how large the video is.
        text: the shape of each argument that stands for a prompt, for one sample; those that begin with "negative" are
            given where there is guidance.
        denoisers: the names of its components that denoise.
        blocks: where their blocks are, in the order of the forward.
        family: its schedulers.
        scale: the argument of the guidance scale; "" where there is none.
        branches: rows of a sample in each forward while guidance is on.
        switches: whether guidance can be switched off between two steps.
        more: other arguments, always the same.
        bare: from latents, time and rows of text to the arguments of the denoiser alone.
        latents: shape of one sample's, for `bare`.
        leaves_out: schedulers of the family that it does not run with.
        takes_sigmas: whether a caller may hand in the sigmas of the steps.
        share: how often it is drawn, of 1; less for those that take long.
    """

    name: str
    build: Callable[[], Any]
    sizes: tuple[dict[str, int], dict[str, int]]
    text: dict[str, tuple[int, ...]]
    denoisers: tuple[str, ...] = ("transformer",)
    blocks: tuple[str, ...] = ("transformer_blocks",)
    family: Mapping[str, Callable[[], Any]] = field(default_factory=lambda: FLOW)
    scale: str = "guidance_scale"
    branches: int = 1
    switches: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    bare: Callable[[Tensor, Tensor, list[int]], dict[str, Any]] | None = None
    latents: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    leaves_out: frozenset[str] = frozenset()
    takes_sigmas: bool = False
    share: float = 1.0

    @property
    def schedulers(self) -> list[str]:
        """Those it runs with."""
        return [name for name in self.family if name not in self.leaves_out]

    def legal(self, call: Call, bare: bool, scheduler: str) -> Call:
        """The call without what cannot be asked of this kind."""
        if not bare and not self.switches:
            call = replace(call, off=None)
        if not call.guided:
            call = replace(call, off=None, on=0)
        if call.batch == 1:
            call = replace(call, one_seed=False)
        if bare and call.breaks and call.breaks.where == "flag":
            call = replace(call, breaks=None)
        if bare and call.has("callback"):  # where nobody marks it, the next loop may look like more of this one
            call = replace(call, marked=True)
        named = call.says is not None and call.says.branch == "right"
        if self.branches == 1 and not named and call.order in ("batched", "batched3", "either"):
            call = replace(call, order="uc")  # its row says that each branch has a forward of its own
        if call.beside:
            call = replace(call, does=tuple(do for do in call.does if do.what != "leave"))
        if "thread" in call.beside and scheduler in DRAWING:
            call = replace(call, beside=call.beside.replace("thread", "nested"))
        if "shared" in call.beside and self.name == "sd3 perturbed":  # each call sets processors and takes them off
            call = replace(call, beside="")
        if "shared" in call.beside:  # whose forward it is cannot be told
            call = replace(call, breaks=None, nan=None, reads="", does=(), says=None)
        takes_sigmas = self.takes_sigmas and not bare and scheduler not in ("heun", "dpm", "unipc")
        return call if takes_sigmas else replace(call, sigmas=False)

    def fresh(self, scheduler: str, denoisers: Mapping[str, nn.Module] | None = None) -> Any:
        """A pipeline around these denoisers, or around copies of what was built."""
        return self.around(_built(self.name), denoisers or {}, scheduler)

    def around(self, pipe: Any, denoisers: Mapping[str, nn.Module], scheduler: str) -> Any:
        """Another pipeline like this one: around these denoisers, and copies of the others; with its own scheduler."""
        made = copy.copy(pipe)
        for name in self.denoisers:
            part = denoisers.get(name)
            setattr(made, name, copy.deepcopy(getattr(pipe, name)) if part is None else part)
        made.scheduler = self.family[scheduler]()
        made.set_progress_bar_config(disable=True)
        return made

    def modules(self, pipe: Any) -> dict[str, nn.Module]:
        """The denoisers of a pipeline by name."""
        return {name: getattr(pipe, name) for name in self.denoisers}

    def stack(self, denoiser: nn.Module) -> list[nn.Module]:
        """Its blocks in the order of the forward."""
        found: list[nn.Module] = []
        for path in self.blocks:
            part = denoiser.get_submodule(path)
            found += part if isinstance(part, nn.ModuleList) else [part]
        return found

    def arguments(self, call: Call, dtype: torch.dtype) -> dict[str, Any]:
        """What the pipeline is called with."""
        given: dict[str, Any] = {**self.sizes[call.size], **self.more, "num_inference_steps": call.steps}
        if self.scale:
            given[self.scale] = 4.0 if call.guided else 1.0
        for i, (name, shape) in enumerate(self.text.items()):
            if name.startswith("negative") and not (call.guided and self.scale):
                continue
            given[name] = _text(name, (call.batch, *shape), dtype, i)
        if call.sigmas:
            given["sigmas"] = [(1 - i / call.steps) ** 1.3 for i in range(call.steps)]
        seeds = [call.seed + (0 if call.one_seed else 10 * i) for i in range(call.batch)]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given["generator"] = generators[0] if call.batch == 1 else generators
        return given


def _text(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    if "mask" in name:
        return torch.ones(shape, dtype=torch.bool)
    return noise(*shape, seed=100 + seed).to(dtype)


@functools.cache
def _built(name: str) -> Any:
    return KINDS[name].build()


def identity(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Which branch a forward of a denoiser is, read off its prompts: what no count can confuse."""
    text = kwargs.get("encoder_hidden_states", args[2] if len(args) > 2 else None)
    return None if text is None else (tuple(text.shape), float(text.double().abs().sum()), float(text.double().sum()))


# --- kinds ------------------------------------------------------------------------------------------------------------


def _wan_bare(latents: Tensor, time: Tensor, rows: list[int]) -> dict[str, Any]:
    return {"hidden_states": latents, "timestep": time, "encoder_hidden_states": _rows(rows, 6, 8)}


def _sd3_bare(latents: Tensor, time: Tensor, rows: list[int]) -> dict[str, Any]:
    text = {"encoder_hidden_states": _rows(rows, 6, 8), "pooled_projections": _rows(rows, 8)}
    return {"hidden_states": latents, "timestep": time, **text}


def _rows(rows: list[int], *shape: int) -> Tensor:
    return torch.stack([noise(*shape, seed=200 + row) for row in rows])


def _two(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {name: shape, f"negative_{name}": shape}


def _shallow(pipe: Any, blocks: int = 2) -> Any:
    """The pipeline with fewer blocks."""
    for part in ("transformer", "transformer_2"):
        denoiser = getattr(pipe, part, None)
        for name in ("blocks", "transformer_blocks", "single_transformer_blocks", "temporal_transformer_blocks"):
            if denoiser is not None and hasattr(denoiser, name):
                setattr(denoiser, name, getattr(denoiser, name)[:blocks])
    return pipe


_SQUARES = ({"height": 16, "width": 16}, {"height": 16, "width": 32})
_VIDEOS = ({"height": 16, "width": 16, "num_frames": 5}, {"height": 32, "width": 16, "num_frames": 5})


def _animatediff() -> Any:
    """With two levels and not three."""
    levels = {
        "block_out_channels": (8, 8),
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    }
    return AnimateDiffPipeline(**{**unets.animated(), "unet": unets.motion_unet(**levels)})


_OWN_SIGMAS = frozenset({"heun", "dpm"})
"""Schedulers that take no sigmas, for pipelines that always hand in their own."""
_POOLED3 = {**_two("prompt_embeds", (6, 8)), **_two("pooled_prompt_embeds", (8,))}


def _sd3(build: Callable[[], Any], **more: Any) -> Kind:
    return Kind(more.pop("name"), build, _SQUARES, _POOLED3, takes_sigmas=True, **more)


_LISTED: Iterable[Kind] = (
    Kind(
        "wan",
        lambda: tiny.wan(layers=2),
        _VIDEOS,
        _two("prompt_embeds", (6, 8)),
        blocks=("blocks",),
        switches=True,
        bare=_wan_bare,
        latents=((4, 1, 4, 4), (4, 2, 4, 4)),
    ),
    Kind(
        "wan two experts",
        lambda: tiny.wan(layers=2, experts=2),
        _VIDEOS,
        _two("prompt_embeds", (6, 8)),
        denoisers=("transformer", "transformer_2"),
        blocks=("blocks",),
        switches=True,
    ),
    Kind(
        "hunyuan",
        tiny.hunyuan,
        _VIDEOS,
        {
            **_two("prompt_embeds", (8, 16)),
            **_two("pooled_prompt_embeds", (8,)),
            **_two("prompt_attention_mask", (8,)),
        },
        blocks=("transformer_blocks", "single_transformer_blocks"),
        scale="true_cfg_scale",
        leaves_out=_OWN_SIGMAS,
        takes_sigmas=True,
    ),
    Kind(
        "cogvideox",
        lambda: _shallow(tiny.cogvideox()),
        _VIDEOS,
        _two("prompt_embeds", (8, 16)),
        family=VARIANCE,
        branches=2,
    ),
    Kind(
        "ltx",
        lambda: _shallow(tiny.ltx()),
        ({"height": 32, "width": 32, "num_frames": 9}, {"height": 32, "width": 64, "num_frames": 9}),
        {**_two("prompt_embeds", (8, 32)), **_two("prompt_attention_mask", (8,))},
        branches=2,
        leaves_out=_OWN_SIGMAS,
    ),
    Kind(
        "mochi",
        lambda: _shallow(tiny.mochi(), 3),
        ({"height": 16, "width": 16, "num_frames": 7}, {"height": 16, "width": 32, "num_frames": 7}),
        {**_two("prompt_embeds", (16, 32)), **_two("prompt_attention_mask", (16,))},
        branches=2,
        leaves_out=_OWN_SIGMAS,
    ),
    Kind(
        "latte",
        lambda: _shallow(latte_zoo.latte()),
        ({"height": 8, "width": 8, "video_length": 2}, {"height": 8, "width": 16, "video_length": 2}),
        _two("prompt_embeds", (6, 16)),
        blocks=("transformer_blocks", "temporal_transformer_blocks"),
        family=VARIANCE,
        leaves_out=frozenset({"cogvideox dpm"}),
        branches=2,
        more={"negative_prompt": None, "clean_caption": False, "mask_feature": False},
    ),
    Kind(
        "flux",
        lambda: _shallow(flux_zoo.flux_pipeline()),
        _SQUARES,
        _POOLED3,
        blocks=("transformer_blocks", "single_transformer_blocks"),
        scale="true_cfg_scale",
        leaves_out=_OWN_SIGMAS,
        takes_sigmas=True,
    ),
    _sd3(
        lambda: _shallow(sd3_zoo.sd3_pipeline(), 3),
        name="sd3",
        branches=2,
        switches=True,
        bare=_sd3_bare,
        latents=((4, 8, 8), (4, 8, 16)),
    ),
    _sd3(
        lambda: _shallow(sd3_zoo.sd3_pipeline(StableDiffusion3PAGPipeline, pag_applied_layers=["blocks.1"])),
        name="sd3 perturbed",
        branches=3,
        more={"pag_scale": 2.0},
    ),
    Kind(
        "sd3 skipped layers",
        lambda: _shallow(sd3_zoo.sd3_pipeline(), 3),
        _SQUARES,
        _POOLED3,
        branches=2,
        more={"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.6},
    ),
    Kind(
        "animatediff",
        _animatediff,
        ({"height": 16, "width": 16, "num_frames": 2}, {"height": 16, "width": 32, "num_frames": 2}),
        _two("prompt_embeds", (5, 8)),
        share=0.4,
        denoisers=("unet",),
        blocks=("down_blocks", "mid_block", "up_blocks"),
        family=VARIANCE,
        leaves_out=frozenset({"cogvideox dpm"}),
        branches=2,
        switches=True,
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _LISTED}
