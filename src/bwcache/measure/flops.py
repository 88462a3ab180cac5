"""How many floating point operations one forward of a denoiser takes: block by block, and what is left.

Counted by torch's own counter (`torch.utils.flop_counter`) while the model runs: matrix products, convolutions and
attention, one multiply-add as two operations. Norms, activations, embeddings and other elementwise work count as
nothing, there as here. Torch has no formula for the attention kernels of CPUs and of some other devices, and would
leave them out without a word; they are counted by the formula that it has for the same attention on CUDA.

Code that `torch.compile` made cannot be counted: count the model before it is compiled. Where blocks are reused by a
session, their share is what they really ran: nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from bwcache.errors import SettingError, complaint
from bwcache.measure.call import Request, call
from bwcache.models import BlockSpec, BlockStack, denoisers, resolve

UNCOUNTED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)


@dataclass(frozen=True)
class Flops:
    """Of one forward of a denoiser.

    Attributes:
        blocks: by the block's name, in call order.
        rest: everything else in the denoiser: embeddings, norms around the blocks, the last projection.
    """

    blocks: Mapping[str, int]
    rest: int

    @property
    def total(self) -> int:
        """Blocks and rest."""
        return sum(self.blocks.values()) + self.rest

    @property
    def block_share(self) -> float | None:
        """What of it lies inside the blocks, 0..1; None when nothing was counted."""
        return sum(self.blocks.values()) / self.total if self.total else None


class FlopCount:
    """Counts the first forward of each denoiser of a pipeline, or of a bare module.

        with FlopCount(pipe) as count:
            pipe("a red ball", num_inference_steps=2)
        count.denoisers["transformer"].blocks

    Raises:
        NoBlocksFoundError: nothing in the target is known.
        SpecMismatchError: the row does not describe the module.
        SettingError: the blocks are never called as modules, so that they cannot be told apart.
    """

    def __init__(self, target: Any, spec: BlockSpec | None = None) -> None:
        self.denoisers: dict[str, Flops] = {}
        """What was counted, by the component's name; without those that were never called."""
        self._stacks = [resolve(name, module, spec) for name, module in denoisers(target, spec).items()]
        for stack in self._stacks:
            _refuse_uncalled(stack)
        self._counter = FlopCounterMode(display=False, custom_mapping=_missing_formulas())
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> FlopCount:
        for stack in self._stacks:
            self._watch(stack)
        self._hooks.enter_context(self._counter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def _watch(self, stack: BlockStack) -> None:
        inside = {block.name: 0 for block in stack.blocks}

        def restart() -> None:
            inside.update(dict.fromkeys(inside, 0))

        def finish(flops: int) -> None:
            self.denoisers.setdefault(stack.name, Flops(dict(inside), flops - sum(inside.values())))

        self._measure(stack.module, restart, finish)
        for block in stack.blocks:
            self._measure(block.module, lambda: None, _adder(inside, block.name))

    def _measure(self, module: nn.Module, begin: Callable[[], None], end: Callable[[int], None]) -> None:
        """Call ``end`` with what each forward of a module took."""
        before = 0

        def enter(module: nn.Module, inputs: Any) -> None:
            nonlocal before
            before = self._counter.get_total_flops()
            begin()

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            end(self._counter.get_total_flops() - before)

        self._hooks.callback(module.register_forward_pre_hook(enter).remove)
        self._hooks.callback(module.register_forward_hook(leave).remove)


def count_flops(pipe: Any, request: Request, spec: BlockSpec | None = None) -> dict[str, Flops]:
    """The first forward of each denoiser that a call of a pipeline reaches.

    Args:
        pipe: a diffusers pipeline, loaded and on its device.
        request: sizes matter; a few steps are enough (two experts need enough of them to reach both).
        spec: the row of a denoiser that is not in the table.

    Raises:
        SettingError: when the pipeline cannot take the request; and as `FlopCount`.
    """
    with FlopCount(pipe, spec) as count:
        call(pipe, request, "counting")
    return count.denoisers


def _adder(inside: dict[str, int], name: str) -> Callable[[int], None]:
    def add(flops: int) -> None:
        inside[name] += flops

    return add


def _missing_formulas() -> dict[Any, Any]:
    there = (getattr(torch.ops.aten, name, None) for name in UNCOUNTED_ATTENTION)
    return {operation: _attention for operation in there if operation is not None}


def _attention(query: Any, key: Any, value: Any, *options: Any, **more: Any) -> int:
    """Torch's formula, from the shapes of the three."""
    return int(sdpa_flop_count(query, key, value))


def _refuse_uncalled(stack: BlockStack) -> None:
    uncalled = [block.name for block in stack.blocks if block.hook is not None]
    if uncalled:
        raise SettingError(
            complaint(
                f"{uncalled[0]} of {type(stack.module).__name__}, which is never called itself",
                "blocks that are called as modules",
                "count the whole model with torch.utils.flop_counter",
            )
        )
