"""Which modules of a denoiser are idle in a replay, found by machine.

With all blocks replayed, the output of a module is poisoned: where the denoiser's own output stays the same, bit for
bit, nothing but blocks reads that module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from bwcache.models import BlockStack, Place, resolve
from tests.conformance.test_models import snapshot
from tests.zoo.kinds import Model, put_around, tensors

DEPTH = 3
"""How deep the parts of a module are looked at: `condition_embedder.text_embedder.linear_1` is the deepest."""

Poison = Callable[[Tensor], Tensor]

POISONS: tuple[Poison, ...] = (lambda tensor: torch.full_like(tensor, float("nan")), torch.zeros_like)


def poisoned(value: Any, poison: Poison) -> Any:
    """The value with other numbers in all its tensors."""
    if isinstance(value, Tensor):
        return poison(value)
    return type(value)(poisoned(item, poison) for item in value) if type(value) in (list, tuple) else value


def can_be_poisoned(value: Any) -> bool:
    """Whether all that a module returned are tensors that can hold NaN."""
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex()
    if type(value) in (list, tuple):
        return any(item is not None for item in value) and all(item is None or can_be_poisoned(item) for item in value)
    return False


class Replayed:
    """Blocks as in a replay: inner ones hand on what they were given, the last one returns what it returned before."""

    def __init__(self, stack: BlockStack) -> None:
        self.replaying = False
        self._last = stack.blocks[-1]
        self._kept: dict[str, Any] = {}
        for block in stack.blocks:
            put_around(block, functools.partial(self._around, block))

    def _around(self, block: Place, inner: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if not self.replaying:
                self._kept[block.name] = snapshot(returned := inner(*args, **kwargs))
                return returned
            if block is self._last or block.outlined:
                return snapshot(self._kept[block.name])
            return block.packed(block.inputs(args, kwargs))

        return called


class Replays:
    """A denoiser that computed one forward and replays another one, over and over, with poison in some modules."""

    def __init__(self, model: Model) -> None:
        self._module, self._inputs = model.build(), model.inputs
        self.stack = resolve("model", self._module)
        self.outside = self._outside()
        blocks = Replayed(self.stack)
        with torch.no_grad():
            self._module(**self._inputs(0.0))
        blocks.replaying = True
        self.called: dict[str, bool] = {}
        self.expected = self._output({part: self._noted(path) for path, part in self.outside.items()})

    def _outside(self) -> dict[str, nn.Module]:
        """The modules that are no block and in none, by path, parents first."""
        inside = {id(part) for block in self.stack.blocks for part in block.module.modules()}
        named = self._module.named_modules()
        return {path: part for path, part in named if path and path.count(".") < DEPTH and id(part) not in inside}

    def _noted(self, path: str) -> Callable[..., None]:
        """Takes note of a call, and of whether all that such calls return can be poisoned."""

        def note(module: nn.Module, args: Any, output: Any) -> None:
            self.called[path] = can_be_poisoned(output) and self.called.get(path, True)

        return note

    def _output(self, hooks: dict[nn.Module, Callable[..., Any]]) -> list[Tensor]:
        """What the replayed forward makes under forward hooks."""
        with torch.no_grad(), ExitStack() as undo:
            for part, hook in hooks.items():
                undo.callback(part.register_forward_hook(hook).remove)
            return tensors(self._module(**self._inputs(0.5)))

    def stays(self, paths: Iterable[str], poison: Poison) -> bool:
        """Whether the output is the same with poison in all these modules together."""
        hooks = {self.outside[path]: lambda module, args, output: poisoned(output, poison) for path in paths}
        try:
            made = self._output(hooks)
        except Exception:
            return False
        return len(made) == len(self.expected) and all(map(torch.equal, made, self.expected))

    def idle(self) -> list[str]:
        """The outermost idle modules."""
        found: list[str] = []
        for path in self.outside:
            inner = any(path.startswith(f"{outer}.") for outer in found)
            if not inner and self.called.get(path) and all(self.stays([path], poison) for poison in POISONS):
                found.append(path)
        return found


class _First(Exception):
    """The first block was reached."""


def reads_values(model: Model) -> str | None:
    """Where what enters the first block depends on more than shapes, in words; None where it does not.

    Fake tensors have a shape, a dtype and a device, and no numbers: whoever asks for one is found out.
    """
    module, mode = model.build(), FakeTensorMode(allow_non_fake_inputs=True)

    def stop(*args: Any, **kwargs: Any) -> None:
        raise _First

    resolve("model", module).blocks[0].module.forward = stop
    given = {name: _faked(value, mode) for name, value in model.inputs(0.5).items()}
    try:
        with mode, torch.no_grad():
            module(**given)
    except _First:
        return None
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        return str(error)
    raise AssertionError("the first block was never called")


def _faked(value: Any, mode: FakeTensorMode) -> Any:
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if type(value) in (list, tuple):
        return type(value)(_faked(item, mode) for item in value)
    return {key: _faked(item, mode) for key, item in value.items()} if type(value) is dict else value
