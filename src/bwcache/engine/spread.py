"""How a model is spread over ranks, as far as it and what is loaded show it: nothing is imported to find out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn

from bwcache.engine.ranks import NAMED, Lockstep, Parts, Ranks, Related, count, members
from bwcache.errors import AttachError, complaint

if TYPE_CHECKING:
    from bwcache.engine.ranks import Groups

_TALKING = ("xfuser", "yunchang", "wan.distributed", "para_attn.context_parallel", "vllm_omni", "sglang")
"""Packages whose attention speaks to other ranks."""

_RUNTIMES = (
    "xfuser.core.distributed.parallel_state",
    "vllm_omni.diffusion.distributed.parallel_state",
    "sglang.multimodal_gen.runtime.distributed.parallel_state",
)
"""Modules that know the groups of whoever serves the model; their functions have the same names."""

_BESIDE = {"vllm_omni.diffusion.distributed.parallel_state": "vllm.distributed.parallel_state"}
"""Who knows those groups that such a module leaves to another package: vllm-omni's tensor parallelism is vllm's."""

_WORDS = {"sp": "sequence", "cfg": "guidance", "tp": "tensor"}
"""Kinds of groups that make one video together."""

_GIVEN_ALIKE = {"tp"}
"""Those whose ranks are given the same. sglang cuts latents into sequences before they enter; a branch is a prompt."""


def related(ranks: Ranks | None, modules: dict[str, nn.Module]) -> Related:
    """Return the ranks that decide together with this one.

    Args:
        ranks: those that somebody names; None: they are to be found.
        modules: the denoisers by name.

    Raises:
        AttachError: there are such ranks, and which they are cannot be known.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Related()
    return found(modules) if ranks is None else _named(ranks, modules)


def _named(ranks: Ranks, modules: dict[str, nn.Module]) -> Related:
    alike = any(_context_mesh(module) is not None for module in modules.values())
    parts, lockstep = _groups(ranks.parts, NAMED, False), _groups(ranks.lockstep, NAMED, True)
    return Related(
        Parts(parts, NAMED, alike) if count(parts) > 1 else None,
        Lockstep(lockstep, NAMED) if count(lockstep) > 1 else None,
        f"as said by {NAMED}",
    )


def _groups(given: Any, where: str, several: bool) -> Groups:
    """The groups of more than one rank that somebody gave, or of a mesh; `several`: whether it may have more axes."""
    if given is None:
        return ()
    if not hasattr(given, "get_group"):
        return (given,)
    if given.ndim > 1 and not several:
        names = ", ".join(given.mesh_dim_names or map(str, range(given.ndim)))
        raise _unclear(f"a mesh of {given.ndim} dimensions ({names}) at {where}")
    found = [given.get_group(i) for i in range(given.ndim)] if given.ndim > 1 else [given.get_group()]
    return tuple(found)


def found(modules: dict[str, nn.Module]) -> Related:
    """Return the ranks that decide together with this one, as far as the modules and what serves them show it.

    Raises:
        AttachError: there are such ranks, and which they are cannot be known.
    """
    served, who = _served()
    parts = _one(modules, {name: _parts_at(name, module) for name, module in modules.items()}) or served
    lockstep = _one(modules, {name: _lockstep_at(name, module) for name, module in modules.items()})
    if lockstep is not None and parts is not None and members(lockstep.groups) <= members(parts.groups):
        lockstep = None  # they agree already
    if parts is None and lockstep is None and who is not None:
        return Related(why=f"{who} makes each video on one rank")
    if parts is None and lockstep is None:
        for name, module in modules.items():
            talking = next(_talking(module), None)
            if talking is not None:
                raise _unclear(f"{talking} in {name}, which speaks to other ranks")
    return Related(parts, lockstep, f"nothing in {' and '.join(modules)} speaks to the other ranks")


def _one(modules: dict[str, nn.Module], each: dict[str, Any]) -> Any:
    """What was found at all denoisers, or at some of them while the others show nothing."""
    some = [one for one in each.values() if one is not None]
    if any(one.groups != some[0].groups for one in some):
        raise _unclear(f"{' and '.join(modules)} on different groups of ranks")
    return next((one for one in some if one.count > 1), None)


def _parts_at(name: str, module: nn.Module) -> Parts | None:
    mesh = _context_mesh(module)
    if mesh is not None:
        return Parts(_groups(mesh, name, False), f"context parallelism of {name}", alike=True)
    if any(_is_fully_sharded(part) for part in module.modules()):
        return None
    mesh = next((weight.device_mesh for weight in module.parameters() if hasattr(weight, "device_mesh")), None)
    if mesh is None or mesh.size() == 1:
        return None
    return Parts(_groups(mesh, name, False), f"distributed parameters of {name}", alike=True)


def _lockstep_at(name: str, module: nn.Module) -> Lockstep | None:
    sharded = next((part for part in module.modules() if _is_fully_sharded(part)), None)
    if sharded is None:
        return None
    group = getattr(sharded, "process_group", None)
    if group is not None:
        return Lockstep((group,), f"FullyShardedDataParallel parameters of {name}")
    weight: Any
    for weight in module.parameters():
        mesh = getattr(weight, "device_mesh", None)
        if mesh is not None and mesh.size() > 1:
            groups = tuple(
                mesh.get_group(axis)
                for axis, placement in enumerate(weight.placements)
                if placement.is_shard() and mesh.size(axis) > 1
            )
            return Lockstep(groups, f"fully_shard of {name}") if groups else None
    return None


def _served() -> tuple[Parts | None, str | None]:
    """The ranks with which a runtime that is loaded makes one video: sequence, guidance and tensor parallel.

    Returns:
        Them, or None; and the name of a runtime that knows all of these groups, or None.

    Raises:
        AttachError: it runs the blocks as a pipeline of stages.
    """
    for path in _RUNTIMES:
        state = sys.modules.get(path)
        if state is None:
            continue
        name = path.partition(".")[0]
        beside = sys.modules.get(_BESIDE.get(path, ""))
        known = {kind: one for kind in (*_WORDS, "pp") if (one := _coordinator(state, beside, kind)) is not None}
        some = {kind: one for kind, one in known.items() if one.world_size > 1}
        if "pp" in some:
            raise AttachError(
                complaint(
                    f"{some['pp'].world_size} stages of a pipeline ({name}), each with a stretch of the blocks",
                    "all blocks on each rank: a stage without the last block has nothing to replay",
                    "set its pipeline parallel degree to 1, and split the tokens instead (ulysses or ring)",
                )
            )
        if some:
            said = " and ".join(_WORDS[kind] for kind in some)
            groups = tuple(one.device_group for one in some.values())
            return Parts(groups, f"{said} parallelism of {name}", alike=set(some) <= _GIVEN_ALIKE), name
        if known.keys() >= _WORDS.keys():
            return None, name
    return None, None


def _coordinator(state: Any, beside: Any, kind: str) -> Any:
    """What a runtime knows of one kind of group, or the package that it leaves them to; None: nothing."""
    name = f"get_{kind}_group"
    with contextlib.suppress(AssertionError, AttributeError):  # not initialised; a version without it
        return getattr(state if hasattr(state, name) else beside, name)()
    return None


def _context_mesh(module: nn.Module) -> Any:
    """The mesh over which diffusers splits the tokens of a model, or None."""
    config = getattr(module, "_parallel_config", None)
    return getattr(getattr(config, "context_parallel_config", None), "_flattened_mesh", None)


def _is_fully_sharded(part: nn.Module) -> bool:
    return any(kind.__name__ in ("FSDPModule", "FullyShardedDataParallel") for kind in type(part).__mro__)


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
            f"pass {NAMED}, the process group or mesh of those; or {NAMED}None, if this rank works alone",
        )
    )
