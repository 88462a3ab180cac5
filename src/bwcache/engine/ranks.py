"""Which ranks decide together: those that are named, or those that the model itself shows to work on one video.

A rank that skipped its blocks while another one waits for it inside them would hang, or make another video. So all that
is local to a rank is added up before anybody decides by it, and no rank refuses, stops or goes on alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bwcache.engine.alike import SETTINGS
from bwcache.errors import AttachError, RanksDifferError, complaint, warn

NAMED = "group="
"""How ranks were found that somebody named."""

_TALKING = ("xfuser", "yunchang", "wan.distributed", "para_attn.context_parallel", "vllm_omni", "sglang")
"""Packages whose attention speaks to other ranks."""


@dataclass(frozen=True)
class Ranks:
    """The ranks that decide together.

    Attributes:
        group: their process group.
        found: where it was found, in words.
        alike: whether all of them are given the same latents and prompts, as far as the model is known.
    """

    group: dist.ProcessGroup
    found: str
    alike: bool = False

    @property
    def count(self) -> int:
        """How many they are."""
        return dist.get_world_size(self.group)

    @property
    def device(self) -> torch.device:
        """Where what they exchange has to lie."""
        if "nccl" in str(dist.get_backend(self.group)):
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def add_up(self, vector: torch.Tensor) -> None:
        """Replace a vector by the sum of those of all ranks."""
        dist.all_reduce(vector, op=dist.ReduceOp.SUM, group=self.group)

    def any(self, here: bool) -> bool:
        """Return whether it holds on any rank; waits for all."""
        flag = torch.tensor(float(here), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.group)
        return bool(flag)

    def expect_same(self, differing: Sequence[str]) -> None:
        """Raise where ranks were not given the same; the sums by which it shows are the same on all of them.

        Raises:
            RanksDifferError: they work on one video, or decide by other settings.
        """
        if not differing:
            return
        found = f"{' and '.join(differing)} that are not the same on {self.count} ranks that decide together"
        if self.alike or SETTINGS in differing:
            raise RanksDifferError(
                complaint(
                    f"{found} ({self.found})",
                    "the same seed, prompt, sizes, steps and policy on each, as for one video",
                    "give each rank a generator of the same seed, or, for videos of their own, groups of their own",
                )
            )
        if self.found == NAMED and len(differing) > 1:
            warn(
                f"found {found}; expected parts of one video, with the same prompts or the same latents; for "
                "videos of their own pass each rank a group of its own",
                RuntimeWarning,
            )

    def __str__(self) -> str:
        return f"{self.count} ranks decide together ({self.found})"


def named(group: Any, modules: dict[str, nn.Module]) -> Ranks:
    """Return the ranks of a process group, or of a device mesh of one dimension, that somebody names.

    Raises:
        AttachError: it is a mesh of more.
    """
    if hasattr(group, "get_group"):
        group = _group_of_mesh(group, NAMED)
    alike = any(_context_mesh(module) is not None for module in modules.values())
    return Ranks(group, NAMED, alike)


def found(modules: dict[str, nn.Module]) -> Ranks | None:
    """Return the ranks that work on one video, as far as the modules show it; None: this one works alone.

    Raises:
        AttachError: there are such ranks, and which they are cannot be known.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    each = {name: _found_at(name, module) for name, module in modules.items()}
    some = [ranks for ranks in each.values() if ranks is not None]
    if any(ranks.group is not some[0].group for ranks in some):
        raise _unclear(f"{' and '.join(each)} on different groups of ranks")
    some = [ranks for ranks in some if ranks.count > 1]
    return some[0] if some else None


def _found_at(name: str, module: nn.Module) -> Ranks | None:
    mesh = _context_mesh(module)
    if mesh is not None:
        return Ranks(_group_of_mesh(mesh, name), f"context parallelism of {name}", alike=True)
    sharded = next((part for part in module.modules() if _is_fully_sharded(part)), None)
    group = None if sharded is None else getattr(sharded, "process_group", None)
    if group is not None:
        return Ranks(group, f"FullyShardedDataParallel parameters of {name}")
    mesh = next((weight.device_mesh for weight in module.parameters() if hasattr(weight, "device_mesh")), None)
    if mesh is not None and mesh.size() > 1:
        how = "fully_shard" if sharded is not None else "distributed parameters"
        return Ranks(_group_of_mesh(mesh, name), f"{how} of {name}", alike=sharded is None)
    talking = next(_talking(module), None)
    if talking is not None:
        raise _unclear(f"{talking} in {name}, which speaks to other ranks")
    return None


def _context_mesh(module: nn.Module) -> Any:
    """The mesh over which diffusers splits the tokens of a model, or None."""
    config = getattr(module, "_parallel_config", None)
    return getattr(getattr(config, "context_parallel_config", None), "_flattened_mesh", None)


def _is_fully_sharded(part: nn.Module) -> bool:
    return any(kind.__name__ in ("FSDPModule", "FullyShardedDataParallel") for kind in type(part).__mro__)


def _group_of_mesh(mesh: Any, where: str) -> dist.ProcessGroup:
    if mesh.ndim != 1:
        names = ", ".join(mesh.mesh_dim_names or map(str, range(mesh.ndim)))
        raise _unclear(f"a mesh of {mesh.ndim} dimensions ({names}) at {where}")
    group: dist.ProcessGroup = mesh.get_group()
    return group


def _talking(module: nn.Module) -> Iterator[str]:
    """Yield what in a module is known to speak to other ranks."""
    for part in module.modules():
        forward = vars(part).get("forward")
        function = getattr(forward, "__func__", getattr(forward, "func", forward))
        for each in (type(part), type(getattr(part, "processor", None)), function):
            package = getattr(each, "__module__", None) or ""
            if f"{package}.".startswith(tuple(f"{name}." for name in _TALKING)):
                yield f"{getattr(each, '__qualname__', each)} of {package}"


def _unclear(what: str) -> AttachError:
    return AttachError(
        complaint(
            f"{what}, and {dist.get_world_size()} ranks",
            "to know which of them work on one video and decide together",
            "pass group=, the process group of those (of this rank alone, if it works alone)",
        )
    )
