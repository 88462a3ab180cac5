"""`torchrun --nproc-per-node 2 -m benchmarks.native.ranks FOLDER NAME`: real code that splits a video among ranks.

The repository's own sequence parallelism runs on CPU processes (gloo): its forward in the place of the model's, its
attention in the place of that of each block. xDiT is stood in for by what these repositories call of it, as exact as
its own: an exchange of tokens against heads, and plain attention. FOLDER is a checkout, NAME one of the cases.

Each rank makes the video alone first, with the model as it is, and then its part of the same one. Printed is of each
policy: who decided together, the steps that were reused, and how far the videos lie apart.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import typer
from torch import Tensor, nn

import bwcache
from benchmarks.native import hunyuan, wan
from benchmarks.native.__main__ import commit
from benchmarks.native.checks import tensors
from benchmarks.native.stubs import attention, provide
from bwcache.core.trace import reuse_line
from bwcache.measure.environment import environment

STEPS = 8
NOISES = tuple(1 - i / STEPS for i in range(STEPS + 1))
STATE = "xfuser.core.distributed.parallel_state"


class Exchanged(nn.Module):
    """What these repositories call of xDiT's attention: each rank has all tokens of some of the heads.

    Text that is the same on all ranks comes as `joint_tensor_…`, behind the tokens.
    """

    def forward(
        self,
        attn: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        joint_tensor_query: Tensor | None = None,
        joint_tensor_key: Tensor | None = None,
        joint_tensor_value: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Tokens of this rank `[B, N / ranks, heads, C]`, of text the same on all ranks behind them."""
        if joint_tensor_query is not None:
            query = torch.cat([query, joint_tensor_query], dim=1)
        q, k, v = (exchanged(each, 2, 1) for each in (query, key, value))
        if joint_tensor_key is not None and joint_tensor_value is not None:
            own = [
                each.chunk(dist.get_world_size(), dim=2)[dist.get_rank()]
                for each in (joint_tensor_key, joint_tensor_value)
            ]
            k, v = torch.cat([k, own[0]], dim=1), torch.cat([v, own[1]], dim=1)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        made = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return exchanged(made, 1, 2)


def exchanged(x: Tensor, scattered: int, gathered: int) -> Tensor:
    """Hands a part of one axis to each rank, and takes theirs along another."""
    given = [part.contiguous() for part in x.chunk(dist.get_world_size(), dim=scattered)]
    taken = [torch.empty_like(part) for part in given]
    dist.all_to_all(taken, given)
    return torch.cat(taken, dim=gathered)


class Group:
    """A group of ranks as xDiT knows it."""

    def __init__(self, ranks: list[int], group: Any) -> None:
        self.ranks, self.device_group, self.world_size = ranks, group, len(ranks)

    def all_gather(self, x: Tensor, dim: int = 0) -> Tensor:
        """The parts of all of them, side by side."""
        parts = [torch.empty_like(x) for _ in self.ranks]
        dist.all_gather(parts, x.contiguous(), group=self.device_group)
        return torch.cat(parts, dim=dim)


def provide_xdit() -> None:
    """xDiT after `initialize_model_parallel`: all ranks are one sequence, and nothing else is split."""
    everyone, rank = list(range(dist.get_world_size())), dist.get_rank()
    alone = [dist.new_group([i]) for i in everyone][rank]
    groups = {"sp": Group(everyone, dist.new_group(everyone))}
    groups |= {kind: Group([rank], alone) for kind in ("cfg", "pp", "tp")}
    known: dict[str, Any] = {f"get_{kind}_group": lambda group=group: group for kind, group in groups.items()}
    known["get_sequence_parallel_world_size"] = dist.get_world_size
    known["get_sequence_parallel_rank"] = dist.get_rank
    for name in ("xfuser", "xfuser.core"):
        provide(name)
    provide("xfuser.core.distributed", **known, initialize_model_parallel=None, init_distributed_environment=None)
    provide(STATE, **known)
    provide("xfuser.core.long_ctx_attention", xFuserLongContextAttention=Exchanged)


class Whole(nn.Module):
    """A model that is called with latents as one tensor, and is known as a whole alone: all that a plan needs."""

    ROW = bwcache.BlockSpec("Whole", (), latents="latents", timestep="time", per_sample=False, module_prefix="")

    def __init__(self, model: nn.Module, given: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.given = model, given

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        """What it makes of latents `[1, 4, 3, 8, 8]` at a time."""
        if "context" in self.given:  # Wan's takes and returns a list of videos
            made: Tensor = self.model([latents[0]], t=time, seq_len=48, **self.given)[0][None]
            return made
        made = self.model(latents, time, **self.given)["x"]
        return made


@dataclass(frozen=True)
class Made:
    """A denoiser with the repository's own sampler.

    Attributes:
        target: what a session is attached to.
        denoiser: the model.
        sample: the sampler: what it makes, always from the same noise.
        whole: the model within another that is called as any is, for a loop that tells the noise.
        told: whether `attach` is told the number of steps; a pipeline says it.
    """

    target: Any
    denoiser: Any
    sample: Callable[[], Any]
    whole: Whole
    told: bool = True

    def loop(self, session: bwcache.Session | None) -> list[Tensor]:
        """A loop of Euler's that tells the session the noise, as a plan needs it and these samplers do not."""
        x = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
        for i, (noise, after) in enumerate(pairwise(NOISES)):
            said: dict[str, Any] = {
                "index": i,
                "branch": "cond",
                "sigma": noise,
                "prediction": "flow",
                "schedule": NOISES,
            }
            with session.step(**said) if session else contextlib.nullcontext():
                x = x + (after - noise) * self.whole(x, torch.tensor([1000 * noise]))
        return [x]


@dataclass(frozen=True)
class Case:
    """Real code that can run on several ranks.

    Attributes:
        repository: owner and name on GitHub.
        split: what of it splits the video.
        open: makes a sampler from a checkout.
        spread: replaces what the repository replaces, where it is asked to run on several ranks.
        finds: whether the ranks are found; else `attach` is told them.
    """

    repository: str
    split: str
    open: Callable[[Path], Made]
    spread: Callable[[Made], None]
    finds: bool = True


def wan_video(folder: Path, side: int = 64) -> Made:
    """Wan's text to video; a number of tokens that the ranks cannot share is padded, alone as on several."""
    found = wan.opened(folder, "wan.text2video")
    task = wan.task(found.WanT2V, model=wan.model(found.WanModel), sp_size=dist.get_world_size())
    asked = wan.asked(size=(side, side), sample_solver="unipc")
    return _wan_made(task, asked)


def _wan_made(task: Any, asked: dict[str, Any]) -> Made:
    words = wan.Texts()(["a cat"], None)
    return Made(task.model, task.model, lambda: task.generate("a cat", **asked), Whole(task.model, {"context": words}))


def wan_edited(folder: Path) -> Made:
    """VACE, of which the blocks that make hints are split too."""
    sampler = wan.video_creation(folder)
    given = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    whole = Whole(sampler.target, {"vace_context": [given], "context": wan.Texts()(["a cat"], None)})
    return Made(sampler.target, sampler.target, sampler.sample, whole)


def wan_picture(folder: Path) -> Made:
    """Wan 2.2 5B, with a time for each token."""
    found = wan.opened(folder, "wan.textimage2video")
    own: Any = importlib.import_module("wan.distributed.ulysses")
    own.flash_attention = attention
    model = wan.model(found.WanModel, model_type="ti2v")
    task = wan.task(found.WanTI2V, model=model, sp_size=dist.get_world_size())
    return _wan_made(task, wan.asked())


def hunyuan_video(folder: Path) -> Made:
    """HunyuanVideo's pipeline; text stands behind the tokens in its attention."""
    provide("flash_attn", __version__="2.7.0")
    provide("flash_attn.flash_attn_interface", _flash_attn_forward=_of_padding, flash_attn_varlen_func=None)
    sampler = hunyuan.pipeline(folder, guided=False)
    models: Any = importlib.import_module("hyvideo.modules.models")
    models.get_cu_seqlens = _lengths
    code: Any = importlib.import_module(type(sampler.target).__module__)
    code.dist = SimpleNamespace(is_initialized=lambda: False)  # where it is, each rank's device is a GPU
    model, angles = sampler.target.transformer, torch.rand(48, 16, generator=torch.Generator().manual_seed(4))
    words = {"text_states": hunyuan.Texts(12, 5).encode(["a cat"]).hidden_state, "text_mask": torch.ones(1, 5).long()}
    words["text_states_2"] = hunyuan.Texts(8, None).encode(["a cat"]).hidden_state
    rope = {"freqs_cos": angles.cos(), "freqs_sin": angles.sin()}
    whole = Whole(model, {**words, **rope, "guidance": torch.tensor([6000.0])})
    return Made(sampler.target, model, sampler.sample, whole, told=False)


def _of_padding(q: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
    """Its attention among padding, of which there is none here."""
    assert q.shape[1] == 0
    return (q,)


def _lengths(mask: Tensor, length: int) -> Tensor:
    """Where tokens and text of each sample end, and its padding."""
    ends = [[i * (mask.shape[1] + length) + length + int(row.sum()), (i + 1) * (mask.shape[1] + length)]
            for i, row in enumerate(mask)]  # fmt: skip
    return torch.tensor([0, *(end for pair in ends for end in pair)], dtype=torch.int32)


def _replaced(module: str, forward: str, attention_name: str) -> Callable[[Made], None]:
    """Of Wan: the forward of the model, and that of each block's attention."""

    def spread(made: Made) -> None:
        code: Any = importlib.import_module(module)
        own: Any = getattr(code, attention_name)
        own.__defaults__ = (torch.float32,)  # else it rounds to bfloat16, which the attention alone does not
        made.denoiser.forward = MethodType(getattr(code, forward), made.denoiser)
        blocks: list[Any] = [*made.denoiser.blocks]
        if hasattr(made.denoiser, "vace_blocks"):
            made.denoiser.forward_vace = MethodType(code.usp_dit_forward_vace, made.denoiser)
            blocks += made.denoiser.vace_blocks
        for block in blocks:
            block.self_attn.forward = MethodType(own, block.self_attn)

    return spread


def _parallelized(made: Made) -> None:
    """Of HunyuanVideo: what its sampler calls on a pipeline."""
    pipelines: Any = sys.modules["hyvideo.diffusion.pipelines"]  # whose `__init__` was not run
    pipelines.HunyuanVideoPipeline = type(made.target)
    code: Any = importlib.import_module("hyvideo.inference")
    code.parallelize_transformer(made.target)


USP = _replaced("wan.distributed.xdit_context_parallel", "usp_dit_forward", "usp_attn_forward")
OWN = _replaced("wan.distributed.sequence_parallel", "sp_dit_forward", "sp_attn_forward")
CASES = {
    "wan2.1": Case("Wan-Video/Wan2.1", "xdit_context_parallel", wan_video, USP),
    "wan2.1-padded": Case("Wan-Video/Wan2.1", "xdit_context_parallel, with padding", partial(wan_video, side=48), USP),
    "wan2.1-vace": Case("Wan-Video/Wan2.1", "xdit_context_parallel", wan_edited, USP),
    "wan2.2": Case("Wan-Video/Wan2.2", "sequence_parallel", wan_picture, OWN, finds=False),
    "hunyuan": Case("Tencent-Hunyuan/HunyuanVideo", "parallelize_transformer", hunyuan_video, _parallelized),
}
POLICIES: dict[str, bwcache.Policy[Any]] = {
    "BWCache": bwcache.BWCache(threshold=0.3, reuse_interval=2),
    "BWCache, all entries": bwcache.BWCache(threshold=0.3, reuse_interval=2, sample=1),
    "Adaptive": bwcache.Adaptive(0.2, 0.0),
    "Planned": bwcache.Planned(computed=5),
    "FirstBlock": bwcache.FirstBlock(0.03),
    "DBCache": bwcache.DBCache(0.03, 1, 1, 0),
    "TaylorSeer": bwcache.TaylorSeer(3, 1, 2, lite=True),
    "HiCache": bwcache.HiCache(3, 2, 2, lite=True),
    "FixedInterval": bwcache.FixedInterval(3),
}


def cached(made: Made, policy: bwcache.Policy[Any], loop: bool, **how: Any) -> dict[str, Any]:
    """A video under a session: what was made, and what the trace says; or the error."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if loop:
                how["spec"] = Whole.ROW
            target = made.whole if loop else made.target
            with bwcache.attach(target, policy, steps=STEPS if loop or made.told else None, **how) as session:
                video = made.loop(session) if loop else tensors(made.sample())
    except bwcache.BWCacheError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    own = [str(one.message) for one in caught if one.category.__module__.startswith("bwcache")]
    trace = session.trace
    return {
        "video": video,
        "line": reuse_line(trace.events),
        "rows": [(event.step, event.branch, event.site, event.action) for event in trace.events],
        "measured": [event.indicator for event in trace.events],
        "ranks": trace.meta.get("ranks"),
        "warned": own,
    }


def outcome(single: Made, both: Made, policy: bwcache.Policy[Any], told: dict[str, Any]) -> dict[str, Any]:
    """How a video of several ranks compares with that of one."""
    loop = isinstance(policy, bwcache.Planned)
    alone, here = cached(single, policy, loop, ranks=None), cached(both, policy, loop, **told)
    if "error" in alone or "error" in here:
        return {"refused alone": alone.get("error"), "refused together": here.get("error")}
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(here["video"], alone["video"], strict=True))
    each: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(each, (here["line"], here["measured"], here["ranks"]))
    numbers = [abs(a - b) / abs(b) for a, b in zip(here["measured"], alone["measured"], strict=True) if a and b]
    return {
        "ranks": here["ranks"],
        "alone": alone["line"],
        "together": here["line"],
        "ranks alike": all(one == each[0] for one in each),
        "as alone": here["rows"] == alone["rows"],
        "indicators apart": max(numbers, default=0.0),
        "apart": apart,
        "warned": [*alone["warned"], *here["warned"]],
    }


def main(folder: Path, name: Annotated[str, typer.Argument(help=f"one of: {', '.join(CASES)}")]) -> None:
    """Tries the real code of a repository on several ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    case = CASES[name]
    sys.path.insert(0, str(folder))
    provide_xdit()
    with contextlib.redirect_stdout(sys.stderr):  # some of the code prints
        single, both = case.open(folder), case.open(folder)
        plain = tensors(single.sample())
        case.spread(both)
        split = tensors(both.sample())
        apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(split, plain, strict=True))
        told: dict[str, Any] = {} if case.finds else {"ranks": dist.group.WORLD}
        found = {title: outcome(single, both, policy, told) for title, policy in POLICIES.items()}
    if dist.get_rank() == 0:
        said = {"name": name, "repository": case.repository, "commit": commit(folder), "split": case.split,
                "ranks": dist.get_world_size(), "apart without a cache": apart, "policies": found,
                "environment": environment(both.target)}  # fmt: skip
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
