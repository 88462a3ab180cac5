"""A place: one module of a denoiser whose call is computed, replayed or looked at, with the streams that it returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bwcache.errors import SpecMismatchError, complaint
from bwcache.models.spec import BlockList, Part
from bwcache.models.streams import Stream, stream_of

OUTSIDE = ("root", "named")
"""Kinds of places that lie in no block: the batch comes first in what passes them."""


@dataclass(frozen=True, eq=False)
class Hook:
    """What is called in place of a block: an entry of a mapping, told by a keyword argument which block it is."""

    owner: MutableMapping[str, Any]
    name: str
    index: str
    number: int


@dataclass(frozen=True, eq=False)
class Place:
    """The denoiser itself, one of its blocks, a part of a block, or another module that methods look at.

    Attributes:
        name: where it stands in the denoiser: "root", "blocks.0", "blocks.0.attn1"; of a named one its name.
        module: what is called.
        streams: what it returns, in order.
        kind: "root", "block", the part's kind such as "self", or "named".
        measured: the stream whose change is the indicator.
        also_measured: further streams whose change counts as well, as in the row.
        outlined: as in `BlockList`.
        hook: what is called in its place, where it is never called itself.
        index: of a named place: which of the values that the module returns; None: all that it returns.
        block: the ordinal of the block that it is or lies in; None of the root and of named places.
    """

    name: str
    module: nn.Module
    streams: tuple[Stream, ...]
    kind: str = "block"
    measured: str = "hidden_states"
    also_measured: tuple[str, ...] = ()
    outlined: bool = False
    hook: Hook | None = None
    index: int | None = None
    block: int | None = None

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the streams as they enter the place, by name and in return order."""
        found: dict[str, Any] = {}
        for stream in self.streams:
            if stream.position is not None:
                found[stream.name] = stream.read(args, kwargs)
        return found

    def entered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the streams as the module's own code has them: this rank's part, where diffusers splits them here."""
        registry = vars(self.module).get("_diffusers_hook")
        given = dict(kwargs)
        for hook in getattr(registry, "hooks", {}).values():
            if type(hook).__module__ == "diffusers.hooks.context_parallel" and hasattr(hook, "pre_forward"):
                args, given = hook.pre_forward(self.module, *args, **given)
        return self.inputs(args, given)

    def outputs(self, returned: Any) -> dict[str, Any]:
        """Return the streams as they left it, by name.

        Raises:
            SpecMismatchError: the module returned another number of values than its row says.
        """
        if self.index is not None:
            return {self.streams[0].name: self.value(returned, 0)}
        values = returned if isinstance(returned, tuple) else (returned,)
        if len(values) != len(self.streams):
            raise SpecMismatchError(
                complaint(
                    f"{len(values)} values returned by {self.name} ({type(self.module).__name__})",
                    f"{len(self.streams)}: {', '.join(stream.name for stream in self.streams)}",
                    "correct `returns` in the model's row",
                )
            )
        found: dict[str, Any] = {}
        for stream, value in zip(self.streams, values, strict=True):
            found[stream.name] = value
        return found

    def position(self, name: str) -> int:
        """Return where among the returned values a stream stands.

        Raises:
            SpecMismatchError: the place returns no such stream.
        """
        names = [stream.name for stream in self.streams]
        if name not in names:
            raise SpecMismatchError(
                complaint(f"a tap of {name!r} at {self.name}", f"one of {names}", "name one of these")
            )
        return names.index(name)

    def value(self, returned: Any, position: int) -> Any:
        """Return one of the returned values; of the root the first tensor.

        Raises:
            SpecMismatchError: as `outputs`.
        """
        if self.kind == "root":
            return _first_tensor(returned)
        if self.index is not None:
            return returned[self.index]
        if isinstance(returned, tuple) and len(returned) == len(self.streams):
            return returned[position]
        return returned if len(self.streams) == 1 and not isinstance(returned, tuple) else self.outputs(returned)

    def passed_on(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return what the module would if it did nothing: the streams as they enter."""
        if len(self.streams) == 1:
            return self.streams[0].read(args, kwargs)
        return self.packed(self.inputs(args, kwargs))

    def packed(self, streams: Mapping[str, Any]) -> Any:
        """Return what the module would: a bare value for one stream, a tuple for more."""
        values = tuple(streams[stream.name] for stream in self.streams)
        return values[0] if len(values) == 1 else values


def parts_of(block: Place, blocks: BlockList) -> list[Place]:
    """Return the parts that a block of this list has, in call order.

    Raises:
        SpecMismatchError: a part's forward lacks an argument that the row names.
    """
    found = []
    for kind, said in blocks.parts.items():
        part = Part(said) if isinstance(said, str) else said
        modules = enumerate(named_modules(inside(block.module, part.path), part.path).items())
        found += [(i, _part(block, part, kind, path, module)) for i, (path, module) in modules]
    return [place for _, place in sorted(found, key=lambda each: each[0])]


def _part(block: Place, part: Part, kind: str, path: str, module: nn.Module) -> Place:
    name = f"{block.name}.{path}"
    if part.outlined:
        streams = tuple(Stream(stream, None) for stream in part.returns)
    else:
        streams = tuple(stream_of(module, stream, name) for stream in part.returns)
    return Place(name, module, streams, kind, part.returns[0], outlined=part.outlined, block=block.block)


def named_place(module: nn.Module, name: str, path: str) -> Place | None:
    """Return the place that a row names, or None where this variant of the class lacks it."""
    found = re.fullmatch(r"([\w.]+)(?:\[(\d+)\])?", path)
    if found is None:
        raise SpecMismatchError(
            complaint(f"the path {path!r} of {name!r}", "such as 'time_embed[0]'", "correct `named`")
        )
    part = inside(module, found[1])
    if not isinstance(part, nn.Module):
        return None
    index = None if found[2] is None else int(found[2])
    return Place(name, part, (Stream(name, None),), "named", name, index=index)


def inside(owner: Any, path: str) -> Any:
    """Return what an attribute path leads to, through lists and dictionaries of modules as well; None: nothing."""
    for attribute in path.split("."):
        owner = getattr(owner, attribute, None)
    return owner


def named_modules(owner: Any, path: str) -> dict[str, nn.Module]:
    """Return the modules by path that a list or a dictionary of modules holds, or that one is by itself."""
    if isinstance(owner, nn.ModuleDict):
        return {f"{path}.{name}": module for name, module in owner.items()}
    if isinstance(owner, (nn.ModuleList, list, tuple)):
        return {f"{path}.{i}": module for i, module in enumerate(owner)}
    return {path: owner} if isinstance(owner, nn.Module) else {}


def _first_tensor(value: Any) -> Any:
    """Return the first tensor in a denoiser's output: a tensor, a tuple, a list, a mapping."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for item in value if (found := _first_tensor(item)) is not None), None)
    return None
