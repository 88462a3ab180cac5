"""The row of a denoiser that nobody has written down: found by one recorded forward, and proven before it is given.

What the recording shows is a guess: the lists whose blocks are called once each and in order, the arguments that carry
the streams, the order of calls. The proof is the law that every row must pass: a replay of the last block alone gives,
bit for bit, what replaying every single block gives. What cannot be proven is refused, with the row that was guessed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bwcache.core.words import shown
from bwcache.engine import hooks
from bwcache.engine.idle import Outline
from bwcache.errors import AlreadyAttachedError, AttachError, NotProvenError, SettingError, complaint
from bwcache.models import BlockList, BlockSpec, BlockStack, Place, resolve

TIMES = ("timestep", "timesteps", "t", "time", "sigma", "noise_level", "noise_levels")
"""Names under which forwards take the time."""

Inputs = Mapping[str, Any] | Callable[[], Any]


@dataclass
class Call:
    """One call of a block: where it stands, what it took by name, what it returned."""

    path: str
    place: int
    module: nn.Module
    arguments: dict[str, Any]
    returned: object


@dataclass
class Recording:
    """One forward of a denoiser: what it was given and made, the calls of all its blocks in order."""

    arguments: dict[str, Any] = field(default_factory=dict)
    made: list[Tensor] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


def discover(module: nn.Module, inputs: Inputs, timestep: str | None = None) -> BlockSpec:
    """Find and prove the row of a denoiser that is not in the table; pass it on as `attach(…, spec=row)`.

    Args:
        module: the denoiser; no session holds it.
        inputs: keyword arguments for one of its forwards; or a call that runs it at least once, such as
            `lambda: pipe("a prompt", num_inference_steps=1)`.
        timestep: name of the forward's argument that carries the time, if it has an unusual one.

    Raises:
        SettingError: what is given is no module, are no inputs, or no argument that its forward was given.
        AlreadyAttachedError: a session holds it.
        NotProvenError: no row could be proven, or the forward failed; the message says why, and which row was guessed.
    """
    _expect_usable(module, inputs)
    recording = record(module, inputs)
    if timestep is not None and timestep not in recording.arguments:
        given = ", ".join(recording.arguments)
        raise SettingError(
            complaint(f"timestep={timestep!r}", f"the argument that carries the time, one of {given}", "name that one")
        )
    time = timestep or next((name for name in TIMES if name in recording.arguments), None)
    if time is None:
        raise NotProvenError(
            complaint(
                f"no time among {', '.join(recording.arguments)}", f"one of {', '.join(TIMES)}", "name it: timestep=…"
            )
        )
    reasons = []
    for spec in guesses(module, recording, time):
        reason = doubt(module, spec, recording)
        if reason is None:
            return spec
        reasons.append(f"{reason.removeprefix('found ')}; guessed {spec!r}")
    raise NotProvenError(
        complaint(
            reasons[0] if reasons else f"no list of blocks that {type(module).__name__} calls one after the other",
            "a stack whose replay is exact",
            "write the row yourself (CONTRIBUTING.md, add a model) and pass it as attach(…, spec=BlockSpec(…))",
        )
    )


def record(module: nn.Module, inputs: Inputs) -> Recording:
    """Run one forward and note every call of a block of any list in it.

    Raises:
        NotProvenError: the module was not run, or raised.
    """
    recording = Recording()
    lists = _lists(module)
    with ExitStack() as undo, torch.no_grad():
        for path, blocks in lists.items():
            for i, block in enumerate(blocks):
                undo.callback(hooks.intercept(block, _noting(recording, path, i, block)).restore)
        undo.callback(hooks.intercept(module, _noting_once(recording, module)).restore)
        try:
            if callable(inputs):
                inputs()
            else:
                module(**inputs)
        except Exception as error:  # whatever the model does with what it is given
            what = "inputs()" if callable(inputs) else f"{type(module).__name__}({', '.join(inputs)})"
            raise NotProvenError(
                complaint(f"{what} that raised {_named(error)}", "a forward that runs", "correct the inputs")
            ) from error
    if not recording.arguments:
        raise NotProvenError(
            complaint(f"{type(module).__name__} not called", "one forward at least", "let `inputs` run the pipeline")
        )
    return recording


def _expect_usable(module: Any, inputs: Any) -> None:
    if not isinstance(module, nn.Module):
        found = f"{shown(module)} as the denoiser"
        raise SettingError(complaint(found, "a torch module", "pass the denoiser alone, such as pipe.transformer"))
    holder = hooks.holder(module)
    if holder is not None:
        found = f"{type(module).__name__} held by {holder!r}"
        raise AlreadyAttachedError(complaint(found, "a free one", "close that session first (bwcache.disable)"))
    by_name = isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs)
    if not by_name and not callable(inputs):
        raise SettingError(
            complaint(
                f"{shown(inputs)} as inputs",
                f"the keyword arguments of {type(module).__name__}'s forward, or a call that runs it",
                "pass a dictionary, or such as lambda: pipe('a prompt', num_inference_steps=1)",
            )
        )


def _named(error: Exception) -> str:
    return f"{type(error).__name__} ({shown(str(error), 200)})"


def guesses(module: nn.Module, recording: Recording, time: str) -> Iterator[BlockSpec]:
    """Rows that the recording suggests, those with the most blocks first."""
    paths = list(dict.fromkeys(call.path for call in recording.calls))
    for first in range(len(paths)):
        chosen = paths[first:]
        calls = [call for call in recording.calls if call.path in chosen]
        lists = tuple(_block_list(path, calls) for path in chosen)
        in_turn = len(chosen) > 1 and calls[0].path != calls[1].path
        last = lists[-1] if not in_turn else next(part for part in lists if part.path == calls[-1].path)
        yield BlockSpec(
            type(module).__name__,
            lists if last is lists[-1] else (*(part for part in lists if part is not last), last),
            read_after=last.returns,
            measured=last.returns[0],
            latents=_latents(recording, time),
            timestep=time,
            interleaved=in_turn,
            per_sample=False,
            guidance="separate",
            prediction="unknown",
            module_prefix=type(module).__module__,
            sources="discovered",
        )


def _latents(recording: Recording, time: str) -> str:
    """Return the argument of the shape of what was made, or else the first one that is a tensor."""
    given = {name: value for name, value in recording.arguments.items() if isinstance(value, Tensor) and name != time}
    shapes = [tensor.shape for tensor in recording.made[:1]]
    return next((name for name, value in given.items() if value.shape in shapes), next(iter(given), "hidden_states"))


def doubt(module: nn.Module, spec: BlockSpec, recording: Recording) -> str | None:
    """Why a row is not proven, or None: it is checked on the recorded forward and on one with other numbers."""
    try:
        stack = resolve("model", module, spec)
    except AttachError as error:
        return str(error)
    try:
        return _doubt(module, stack, recording)
    except Exception as error:  # whatever the model does with other numbers than it was given
        return f"a forward that raises {_named(error)} on other numbers than those of the inputs"


def _doubt(module: nn.Module, stack: BlockStack, recording: Recording) -> str | None:
    called = [call.module for call in recording.calls if any(call.module is block.module for block in stack.blocks)]
    if called != [block.module for block in stack.blocks]:
        return "blocks that are not called once each, in the order of their lists"
    first, second = recording.arguments, _varied(recording.arguments, stack.spec.timestep)
    before = _held(module)
    plain = _run(module, first)
    if not _alike(plain, _run(module, first)):
        return "a forward that gives another result each time"
    if _held(module) != before:
        return "blocks that keep something between forwards"
    stored: list[tuple[nn.Module, Answer]] = [(block.module, _stored) for block in stack.blocks]
    expected = _replayed(module, stored, first, second)
    if _alike(expected, _run(module, second)):
        return "a forward on which its blocks have no effect"
    skipped = [(block.module, _skipped(block)) for block in stack.blocks[:-1]]
    made = _replayed(module, [*skipped, stored[-1]], first, second)
    return None if _alike(made, expected) else "a forward that reads more than the last block's output"


def _lists(module: nn.Module) -> dict[str, list[nn.Module]]:
    """Lists of two or more blocks, outermost ones only."""
    found: dict[str, list[nn.Module]] = {}
    for path, child in module.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)) and len(child) > 1 and not inside:
            found[path] = list(child.children())
    return found


def _noting(recording: Recording, path: str, i: int, block: nn.Module) -> hooks.Interceptor:
    signature = inspect.signature(block.forward)

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            returned = inner(*args, **kwargs)
            if not recording.arguments:
                arguments = dict(signature.bind(*args, **kwargs).arguments)
                recording.calls.append(Call(path, i, block, arguments, returned))
            return returned

        return noted

    return around


def _noting_once(recording: Recording, module: nn.Module) -> hooks.Interceptor:
    signature = inspect.signature(module.forward)

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            given = _copied(dict(signature.bind(*args, **kwargs).arguments))
            returned = inner(*args, **kwargs)
            if not recording.arguments:
                recording.arguments, recording.made = given, _tensors(returned)
            return returned

        return noted

    return around


def _block_list(path: str, calls: list[Call]) -> BlockList:
    """A list's streams: what comes back, by the arguments that take the same thing."""
    call = next(call for call in calls if call.path == path)
    later = next((other for other in calls if other.path == path and other is not call), call)
    values = call.returned if isinstance(call.returned, (tuple, list)) else (call.returned,)
    names: list[str] = []
    for value in values:
        taken = [name for name, argument in later.arguments.items() if argument is value and name not in names]
        alike = [name for name, argument in call.arguments.items() if _like(argument, value) and name not in names]
        names += (taken or alike)[:1]
    if len(names) == len(values) and not isinstance(call.returned, list):
        return BlockList(path, tuple(names))
    return BlockList(path, ("hidden_states", *(f"value_{i}" for i in range(1, len(values)))), outlined=True)


def _like(a: object, b: object) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype


def _varied(value: Any, time: str, name: str | None = None) -> Any:
    """The same forward with other numbers, and at another time."""
    if isinstance(value, Tensor) and name == time:
        return value * 0.75 if value.is_floating_point() else (value * 3) // 4
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3:
        return value * 0.8 + value.roll(1, -1) * 0.1
    if isinstance(value, float) and name == time:
        return value * 0.75
    if isinstance(value, dict):
        return {key: _varied(item, time, key) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_varied(item, time, name) for item in value)
    return value


def _run(module: nn.Module, arguments: dict[str, Any]) -> list[Tensor]:
    """All tensors of one forward's output."""
    parameters = inspect.signature(module.forward).parameters
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, value in _copied(arguments).items():
        kind = parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            args += value
        elif kind is inspect.Parameter.VAR_KEYWORD:
            kwargs |= value
        elif kind is inspect.Parameter.POSITIONAL_ONLY:
            args.append(value)
        else:
            kwargs[name] = value
    with torch.no_grad():
        return _tensors(module(*args, **kwargs))


Answer = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""What a block returned before, and what it is called with now -> what it returns in a replay."""


def _replayed(
    module: nn.Module, answers: Sequence[tuple[nn.Module, Answer]], first: dict[str, Any], second: dict[str, Any]
) -> list[Tensor]:
    """What the second forward returns, whose blocks are answered for by what they returned in the first."""
    kept: dict[nn.Module, object] = {}
    replaying = False

    def around(block: nn.Module, answer: Answer, inner: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if replaying:
                return answer(kept[block], args, kwargs)
            kept[block] = _copied(returned := inner(*args, **kwargs))
            return returned

        return called

    with ExitStack() as undo:
        for block, answer in answers:
            undo.callback(hooks.intercept(block, partial(around, block, answer)).restore)
        _run(module, first)
        replaying = True
        return _run(module, second)


def _stored(kept: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Brute force: a block returns what it returned before."""
    return _copied(kept)


def _skipped(block: Place) -> Answer:
    """As the engine does: an inner block hands on what it was given; NaN where nobody may read it."""

    def answer(kept: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if block.outlined:
            return Outline.of(kept).filled(value=float("nan"))
        return block.packed(block.inputs(args, kwargs))

    return answer


def _held(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Every tensor that hangs on the module anywhere, by its identity and version."""
    held = {}
    for path, part in module.named_modules():
        for name, value in {**vars(part), **part._buffers}.items():
            for i, tensor in enumerate(_tensors(value, clone=False)):
                held[f"{path}.{name}.{i}"] = (id(tensor), tensor._version)
    return held


def _alike(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _tensors(value: object, clone: bool = True) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.clone() if clone else value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item, clone)]
    return []


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value
