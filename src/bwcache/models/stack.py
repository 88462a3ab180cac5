"""A row, checked against a live module: the stack of blocks in call order, and the sites and taps placed on it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from bwcache.errors import AttachError, NoBlocksFound, SpecMismatch, complaint
from bwcache.models import table
from bwcache.models.refused import reason_of
from bwcache.models.spec import BlockList, BlockSpec


@dataclass(frozen=True)
class Stream:
    """A tensor that flows through a block: the argument's name and its place among the positional ones.

    The place is None where it is no argument: a value that a block only returns.
    """

    name: str
    position: int | None

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The stream's value in a call of the block."""
        if self.name in kwargs:
            return kwargs[self.name]
        return args[self.position] if self.position is not None and self.position < len(args) else None

    def replaced(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments of a call with another value of the stream."""
        if self.name in kwargs or self.position is None:
            return args, {**kwargs, self.name: value}
        return (*args[: self.position], value, *args[self.position + 1 :]), kwargs


@dataclass(frozen=True)
class Aside:
    """A sign that a forward is none of the run's: an argument, attributes in it, and the value (None: anything set)."""

    argument: Stream
    attributes: tuple[str, ...]
    value: str | None

    def holds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether this forward carries the sign."""
        found = self.argument.read(args, kwargs)
        for attribute in self.attributes:
            found = _inside(found, attribute)
        return found is not None and found is not False if self.value is None else str(found) == self.value


def _sign(
    said: tuple[str, ...], signs: tuple[Aside, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    return next((words for words, sign in zip(said, signs, strict=True) if sign.holds(args, kwargs)), None)


@dataclass(frozen=True, eq=False)
class Hook:
    """What is called in place of a block: an entry of a mapping, told by a keyword argument which block it is."""

    owner: MutableMapping[str, Any]
    name: str
    index: str
    number: int


def _inside(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, (list, tuple)) and name.isdigit():
        return value[int(name)] if int(name) < len(value) else None
    return getattr(value, name, None)


@dataclass(frozen=True, eq=False)
class Block:
    """One block of a denoiser.

    Attributes:
        name: where it stands in the denoiser.
        module: the block itself.
        streams: what it returns, in order.
        measured: the stream whose change is the indicator.
        outlined: as in `BlockList`.
        hook: what is called in its place, where it is never called itself.
    """

    name: str
    module: nn.Module
    streams: tuple[Stream, ...]
    measured: str = "hidden_states"
    outlined: bool = False
    hook: Hook | None = None

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The streams as they enter the block, by name and in return order."""
        return {stream.name: stream.read(args, kwargs) for stream in self.streams if stream.position is not None}

    def outputs(self, returned: Any) -> dict[str, Tensor]:
        """The streams as they left it, by name.

        Raises:
            SpecMismatch: the block returned another number of values than its row says.
        """
        values = returned if isinstance(returned, tuple) else (returned,)
        if len(values) != len(self.streams):
            raise SpecMismatch(
                complaint(
                    f"{len(values)} values returned by {self.name} ({type(self.module).__name__})",
                    f"{len(self.streams)}: {', '.join(stream.name for stream in self.streams)}",
                    "correct `returns` in the model's row",
                )
            )
        return {stream.name: value for stream, value in zip(self.streams, values, strict=True)}

    def position(self, name: str) -> int:
        """Where among the returned values a stream stands.

        Raises:
            SpecMismatch: the block returns no such stream.
        """
        names = [stream.name for stream in self.streams]
        if name not in names:
            raise SpecMismatch(complaint(f"a tap of {name!r} at {self.name}", f"one of {names}", "name one of these"))
        return names.index(name)

    def value(self, returned: Any, position: int) -> Any:
        """One of the returned values; raises as `outputs`."""
        if isinstance(returned, tuple) and len(returned) == len(self.streams):
            return returned[position]
        return returned if isinstance(returned, Tensor) and len(self.streams) == 1 else self.outputs(returned)

    def packed(self, streams: Mapping[str, Any]) -> Any:
        """What the block would return: a bare value for one stream, a tuple for more."""
        values = tuple(streams[stream.name] for stream in self.streams)
        return values[0] if len(values) == 1 else values


@dataclass(frozen=True)
class Site:
    """A run of blocks, by their indices in the stack, that is computed or reused as one.

    Attributes:
        name: such as "stack".
        first, last: indices of its first and last block.
        streams: what is kept of the last block's return.
        keeps: "output", or "residual": output minus the input of the first block.
    """

    name: str
    first: int
    last: int
    streams: tuple[str, ...]
    keeps: Literal["output", "residual"] = "output"


@dataclass(frozen=True)
class Tap:
    """A block, by its index, at whose output a policy measures a stream."""

    block: int
    stream: str


@dataclass(frozen=True, eq=False)
class BlockStack:
    """The blocks of one denoiser in call order.

    Attributes:
        name: the denoiser's name in its pipeline, such as "transformer_2"; "model" for a bare module.
        module: the denoiser.
        blocks: in the order of the forward.
        spec: the row.
        timestep: the argument of the denoiser's forward that carries the time.
        asides, fillings, skips: the row's `aside`, `filling` and `skips`, found in the forward's arguments.
        idle: the row's idle modules that this denoiser has, by path.
    """

    name: str
    module: nn.Module
    blocks: tuple[Block, ...]
    spec: BlockSpec
    timestep: Stream
    asides: tuple[Aside, ...] = ()
    fillings: tuple[Aside, ...] = ()
    skips: Stream | None = None
    idle: Mapping[str, nn.Module] = field(default_factory=dict)

    def aside(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """The sign by which a forward is none of the run's, in words, or None."""
        return _sign(self.spec.aside, self.asides, args, kwargs)

    def filling(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """The sign by which a forward fills a cache and is a step all the same, in words, or None."""
        return _sign(self.spec.filling, self.fillings, args, kwargs)

    def skipped(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """Which rows of a forward's batch pass over which blocks, `[blocks, batch]`; None where it does not say."""
        found = None if self.skips is None else self.skips.read(args, kwargs)
        return found if isinstance(found, Tensor) else None

    def whole(self, keeps: Literal["output", "residual"] = "output") -> Site:
        """All blocks as one site."""
        return Site("stack", 0, len(self.blocks) - 1, self.spec.decoded, keeps)

    def tap(self, block: int) -> Tap:
        """A tap at one block's output."""
        return Tap(block, self.blocks[block].measured)


def denoisers(target: Any, spec: BlockSpec | None = None) -> dict[str, nn.Module]:
    """The denoisers of a pipeline by component name; a bare module is its own, under the name "model".

    What `torch.compile` wrapped is handed out without the wrapper.

    Args:
        target: a pipeline or a module.
        spec: the row of a denoiser that is not in the table.

    Raises:
        NoBlocksFound: none of its components is in the table.
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


def _unknown(found: str, kinds: Iterable[type]) -> NoBlocksFound:
    refused = [f"{kind.__name__}: {reason_of(kind)}" for kind in kinds if reason_of(kind)]
    return NoBlocksFound(
        complaint(
            f"{found} ({'; '.join(refused)})" if refused else found,
            f"one of the {len(table.supported())} denoisers that `bwcache models` lists",
            "find its row with bwcache.discover(module, inputs) and pass it as attach(…, spec=row)",
        )
    )


def resolve(name: str, module: nn.Module, spec: BlockSpec | None = None) -> BlockStack:
    """The checked stack of a denoiser: its row, or the one given.

    Raises:
        NoBlocksFound: no row is of this class or of one that it derives from.
        SpecMismatch: the row names a list or an argument that the module does not have.
    """
    module = uncompiled(module)
    spec = spec or table.row_of(type(module))
    if spec is None:
        raise _unknown(f"a {type(module).__name__} of {type(module).__module__}", [type(module)])
    lists = [_blocks(module, part, spec) for part in spec.lists]
    if spec.zipped and len({len(part) for part in lists}) > 1:
        raise SpecMismatch(
            complaint(
                f"lists of {', '.join(str(len(part)) for part in lists)} blocks in the row of {spec.model}",
                "as many in each, since they are taken in turn",
                "correct `zipped`",
            )
        )
    ordered = zip(*lists, strict=True) if spec.zipped else lists
    blocks = tuple(block for some in ordered for block in some)
    silent = [part for part in spec.lists if (part.measured or spec.measured) not in part.returns]
    if silent:
        raise SpecMismatch(
            complaint(
                f"measured stream {silent[0].measured or spec.measured!r} in the row of {spec.model}",
                f"one of {silent[0].returns}, which the blocks of {silent[0].path!r} return",
                "correct `measured`",
            )
        )
    missing = [stream for stream in spec.decoded if stream not in spec.lists[-1].returns]
    if missing:
        raise SpecMismatch(
            complaint(
                f"decoded stream {missing[0]!r} in the row of {spec.model}",
                f"one of {spec.lists[-1].returns}, which its last block returns",
                "correct `decoded`",
            )
        )
    kind = type(module).__name__
    asides = tuple(_aside(module, said, kind) for said in spec.aside)
    fillings = tuple(_aside(module, said, kind) for said in spec.filling)
    time = _stream(module, spec.timestep, kind)
    skips = None if spec.skips is None else _stream(module, spec.skips, kind)
    return BlockStack(name, module, blocks, spec, time, asides, fillings, skips, _idle(module, spec))


def _idle(module: nn.Module, spec: BlockSpec) -> dict[str, nn.Module]:
    """The idle modules that there are; a variant without one has nothing to skip there."""
    found: dict[str, nn.Module] = {}
    for path in spec.idle:
        part: Any = module
        for attribute in path.split("."):
            part = getattr(part, attribute, None)
        if isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            found |= {f"{path}.{name}": each for name, each in part.named_children()}
        elif isinstance(part, nn.Module):
            found[path] = part
    return found


def _aside(module: nn.Module, said: str, kind: str) -> Aside:
    path, _, value = said.partition("=")
    argument, *attributes = path.split(".")
    return Aside(_stream(module, argument, kind), tuple(attributes), value or None)


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` wrapped, or itself."""
    wrapped = getattr(module, "_orig_mod", None)
    return module if wrapped is None else wrapped


def _blocks(module: nn.Module, part: BlockList, spec: BlockSpec) -> list[Block]:
    owner: Any = module
    single = False
    for attribute in part.path.split("."):
        owner = getattr(owner, attribute, None)
    if owner is None and part.optional:
        return []
    if isinstance(owner, nn.Module) and not isinstance(owner, nn.ModuleList):
        owner, single = [owner], True
    if not isinstance(owner, (nn.ModuleList, list)) or len(owner) == 0:
        lists = [path for path, child in module.named_modules() if isinstance(child, nn.ModuleList) and len(child)]
        raise SpecMismatch(
            complaint(
                f"no blocks at {part.path!r} of {type(module).__name__}",
                f"a filled ModuleList there, as the row of {spec.model} says; it has {', '.join(lists[:8]) or 'none'}",
                "correct `path` in the row",
            )
        )
    names = [part.path] if single else [f"{part.path}.{i}" for i in range(len(owner))]
    hooks = [_hook(module, part, i) for i in range(len(owner))]
    return [
        Block(
            name,
            block,
            tuple(_stream(block, stream, name, part.outlined, hook) for stream in part.returns),
            part.measured or spec.measured,
            part.outlined,
            hook,
        )
        for name, block, hook in zip(names, owner, hooks, strict=True)
    ]


def _hook(module: nn.Module, part: BlockList, number: int) -> Hook | None:
    if part.hook is None:
        return None
    path, _, name = part.hook.rpartition(".")
    owner: Any = module
    for attribute in path.split("."):
        owner = getattr(owner, attribute, None)
    if not isinstance(owner, MutableMapping) or not callable(owner.get(name)):
        found = f"a {type(owner).__name__}" + (f" of {', '.join(owner)}" if isinstance(owner, Mapping) else "")
        raise SpecMismatch(
            complaint(
                f"{found} at {path!r} of {type(module).__name__}",
                f"a mapping with a function {name!r}, which is called for each block of {part.path!r}",
                "correct `hook` in the row",
            )
        )
    return Hook(owner, name, part.index, number)


def _stream(module: nn.Module, name: str, where: str, returned: bool = False, hook: Hook | None = None) -> Stream:
    parameters = list(inspect.signature(hook.owner[hook.name] if hook else uncompiled(module).forward).parameters)
    if name not in parameters and returned:
        return Stream(name, None)
    if name not in parameters:
        raise SpecMismatch(
            complaint(
                f"forward({', '.join(parameters)}) of {where} ({type(module).__name__})",
                f"an argument {name!r}",
                "correct the row: the argument was renamed, or this is another version of the class",
            )
        )
    return Stream(name, parameters.index(name))
