"""A row, checked against a live module: which denoisers there are, and the stack of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from torch import nn

from bwcache.errors import AttachError, NoBlocksFoundError, SpecMismatchError, complaint
from bwcache.models import table
from bwcache.models.places import Hook, Place, inside, named_modules
from bwcache.models.provenance import expect_free, expect_proven
from bwcache.models.refused import reason_of
from bwcache.models.spec import BlockList, BlockSpec, Idle
from bwcache.models.stack import BlockStack, Flag, NoBlocks
from bwcache.models.streams import stream_of, uncompiled


def denoisers(target: Any, spec: BlockSpec | None = None) -> dict[str, nn.Module]:
    """The denoisers of a pipeline by component name; a bare module is its own, under the name "model".

    What `torch.compile` wrapped is handed out without the wrapper.

    Args:
        target: a pipeline or a module.
        spec: the row of a denoiser that is not in the table.

    Raises:
        NoBlocksFoundError: none of its components is in the table.
        AttachError: it is neither a pipeline nor a module.
    """
    if isinstance(target, nn.Module):
        return {"model": uncompiled(target)}
    components = getattr(target, "components", None)
    if not isinstance(components, Mapping):
        raise AttachError(
            complaint(
                f"a {type(target).__name__}",
                "a diffusers pipeline or a torch.nn.Module",
                "pass the pipeline itself, or its transformer",
            )
        )
    modules = {name: uncompiled(part) for name, part in components.items() if isinstance(part, nn.Module)}
    kinds = {name: type(part) for name, part in modules.items()}
    found = {
        name: modules[name]
        for name, kind in kinds.items()
        if table.row_of(kind) or (spec and kind.__name__ == spec.model)
    }
    if not found:
        listed = ", ".join(f"{name}: {kind.__name__}" for name, kind in kinds.items()) or "no modules"
        raise _unknown(f"{type(target).__name__} with {listed}", kinds.values())
    return found


def _unknown(found: str, kinds: Iterable[type]) -> NoBlocksFoundError:
    refused = [f"{kind.__name__}: {reason_of(kind)}" for kind in kinds if reason_of(kind)]
    return NoBlocksFoundError(
        complaint(
            f"{found} ({'; '.join(refused)})" if refused else found,
            f"one of the {len(table.supported())} denoisers that `bwcache models` lists",
            "find its row with bwcache.discover(module, inputs) and pass it as attach(…, spec=row)",
        )
    )


def resolve(name: str, module: nn.Module, spec: BlockSpec | None = None) -> BlockStack:
    """The checked stack of a denoiser: its row, or the one given.

    Raises:
        NoBlocksFoundError: no row is of this class or of one that it derives from.
        NotProvenError: the class derives from that of the row and has a forward of its own.
        AttachError: another cache is at work on it, or a strange function stands in the place of its forward.
        SpecMismatchError: the row names a list or an argument that the module does not have.
    """
    module = uncompiled(module)
    given, spec = spec, spec or table.row_of(type(module))
    if spec is None:
        raise _unknown(f"a {type(module).__name__} of {type(module).__module__}", [type(module)])
    expect_free(name, module)
    if given is None:
        named = (named_modules(inside(module, part.path), part.path) for part in spec.lists)
        expect_proven(module, spec, [block for blocks in named for block in blocks.values()])
    found = _all_blocks(module, spec)
    _expect_streams(spec)
    kind = type(module).__name__
    fills = tuple(_flag(module, said, kind) for said in spec.cache_fill_flags)
    fillings = tuple(_flag(module, said, kind) for said in spec.filling)
    time = stream_of(module, spec.timestep, kind)
    skips = None if spec.skips is None else stream_of(module, spec.skips, kind)
    blocks = tuple(replace(block, block=i) for i, (block, _) in enumerate(found)) or NoBlocks(type(module).__name__)
    lists = tuple(part for _, part in found)
    return BlockStack(name, module, blocks, spec, time, lists, fills, fillings, skips, _idle(module, spec, len(blocks)))


def _expect_streams(spec: BlockSpec) -> None:
    """Raise `SpecMismatchError` where a row measures or reads streams that its blocks do not return."""
    if not spec.lists:
        return
    silent = [part for part in spec.lists if (part.measured or spec.measured) not in part.returns]
    if silent:
        raise SpecMismatchError(
            complaint(
                f"measured stream {silent[0].measured or spec.measured!r} in the row of {spec.model}",
                f"one of {silent[0].returns}, which the blocks of {silent[0].path!r} return",
                "correct `measured`",
            )
        )
    missing = [stream for stream in spec.read_after if stream not in spec.lists[-1].returns]
    if missing:
        raise SpecMismatchError(
            complaint(
                f"stream read after the blocks, {missing[0]!r} in the row of {spec.model}",
                f"one of {spec.lists[-1].returns}, which its last block returns",
                "correct `read_after`",
            )
        )


def _all_blocks(module: nn.Module, spec: BlockSpec) -> list[tuple[Place, BlockList]]:
    """Return the blocks of all lists in call order, each with its list."""
    lists = [[(block, part) for block in _blocks(module, part, spec)] for part in spec.lists]
    if spec.interleaved and len({len(part) for part in lists}) > 1:
        raise SpecMismatchError(
            complaint(
                f"lists of {', '.join(str(len(part)) for part in lists)} blocks in the row of {spec.model}",
                "as many in each, since they are taken in turn",
                "correct `interleaved`",
            )
        )
    ordered = zip(*lists, strict=True) if spec.interleaved else lists
    return [each for some in ordered for each in some]


def _idle(module: nn.Module, spec: BlockSpec, count: int) -> dict[str, nn.Module]:
    """Return the idle modules that there are; a variant without one has nothing to skip there."""
    found: dict[str, nn.Module] = {}
    for each in spec.idle:
        if isinstance(each, Idle) and _is_read_after(module, each, count - 1):
            continue
        path = each.path if isinstance(each, Idle) else each
        part = inside(module, path)
        if isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            found |= {f"{path}.{name}": child for name, child in part.named_children()}
        elif isinstance(part, nn.Module):
            found[path] = part
    return found


def _is_read_after(module: nn.Module, idle: Idle, last: int) -> bool:
    """Return whether a module's output is read after the last block; in doubt it is."""
    blocks = getattr(getattr(module, "config", None), idle.config_entry, None)
    if isinstance(blocks, int):
        return blocks < 1 or last % blocks == 0
    return not isinstance(blocks, (list, tuple)) or last in blocks


def _flag(module: nn.Module, said: str, kind: str) -> Flag:
    path, _, value = said.partition("=")
    argument, *attributes = path.split(".")
    return Flag(stream_of(module, argument, kind), tuple(attributes), value or None)


def _blocks(module: nn.Module, part: BlockList, spec: BlockSpec) -> list[Place]:
    owner = inside(module, part.path)
    named = named_modules(owner, part.path)
    if not named and part.optional:
        return []
    if not named:
        kinds = (nn.ModuleList, nn.ModuleDict)
        lists = [path for path, child in module.named_modules() if isinstance(child, kinds) and len(child)]
        raise SpecMismatchError(
            complaint(
                f"no blocks at {part.path!r} of {type(module).__name__}",
                f"a filled ModuleList there, as the row of {spec.model} says; it has {', '.join(lists[:8]) or 'none'}",
                "correct `path` in the row",
            )
        )
    return [_block(module, block, name, i, part, spec) for i, (name, block) in enumerate(named.items())]


def _block(module: nn.Module, block: nn.Module, name: str, i: int, part: BlockList, spec: BlockSpec) -> Place:
    hook = _hook(module, part, i)
    function = None if hook is None else hook.owner[hook.name]
    streams = tuple(stream_of(block, stream, name, part.outlined, function) for stream in part.returns)
    also = tuple(stream for stream in spec.also_measured if stream in part.returns)
    return Place(name, block, streams, "block", part.measured or spec.measured, also, part.outlined, hook)


def _hook(module: nn.Module, part: BlockList, number: int) -> Hook | None:
    if part.hook is None:
        return None
    path, _, name = part.hook.rpartition(".")
    owner = inside(module, path)
    if not isinstance(owner, MutableMapping) or not callable(owner.get(name)):
        found = f"a {type(owner).__name__}" + (f" of {', '.join(owner)}" if isinstance(owner, Mapping) else "")
        raise SpecMismatchError(
            complaint(
                f"{found} at {path!r} of {type(module).__name__}",
                f"a mapping with a function {name!r}, which is called for each block of {part.path!r}",
                "correct `hook` in the row",
            )
        )
    return Hook(owner, name, part.index, number)
