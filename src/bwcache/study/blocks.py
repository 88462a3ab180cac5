"""How much of the blocks' work a call really did, counted from outside: whatever claims to skip, this sees what ran.

A cache may skip a whole block or only its attention. So the leaves are counted, the linear and convolution layers
inside the blocks, each weighted with the operations it stands for. Products of attention belong to no leaf: they are
put on the layer of the same attention that runs last, which reads them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bwcache.models import denoisers, resolve


class BlockWork:
    """Floating point operations done inside the blocks of a pipeline.

        work = BlockWork.of(pipe, call)      # once: what each leaf stands for
        with work.counted() as done:
            pipe(...)
        done()                               # operations

    Args:
        weights: operations of one call of each leaf.
    """

    def __init__(self, weights: dict[nn.Module, int]) -> None:
        self._weights = weights

    @classmethod
    def of(cls, pipe: Any, once: Any) -> BlockWork:
        """Runs `once()`, a short call of the pipeline, under torch's operation counter.

        Raises:
            NoBlocksFoundError: the pipeline has no denoiser that is known.
        """
        modules = denoisers(pipe)
        blocks = [block.module for name, module in modules.items() for block in resolve(name, module).blocks]
        called: Counter[nn.Module] = Counter()
        spent: Counter[nn.Module] = Counter()
        with contextlib.ExitStack() as hooks:
            for block in blocks:
                _watch(hooks, block, called, spent)
            with torch.no_grad():
                once()
        return cls({leaf: round(spent[leaf] / count) for leaf, count in called.items()})

    @contextlib.contextmanager
    def counted(self) -> Iterator[Any]:
        """Counts while it lasts; yields a function that says how many operations were done so far."""
        calls: Counter[nn.Module] = Counter()

        def ran(leaf: nn.Module, *_: Any) -> None:
            calls[leaf] += 1

        with contextlib.ExitStack() as hooks:
            for leaf in self._weights:
                hooks.callback(leaf.register_forward_hook(ran).remove)
            yield lambda: sum(self._weights[leaf] * count for leaf, count in calls.items())


def leaves(block: nn.Module) -> list[nn.Module]:
    """The layers of a block that have weights and no layers inside."""
    return [part for part in block.modules() if not any(part.children()) and any(True for _ in part.parameters(False))]


def _watch(
    hooks: contextlib.ExitStack, block: nn.Module, called: Counter[nn.Module], spent: Counter[nn.Module]
) -> None:
    """Shares a block's operations out among its leaves: what ran since the last leaf goes to the next one."""
    state: dict[str, Any] = {}

    def enter(*_: Any) -> None:
        state["mode"] = FlopCounterMode(display=False)
        state["mode"].__enter__()
        state["before"] = 0

    def ran(leaf: nn.Module, *_: Any) -> None:
        total = state["mode"].get_total_flops()
        called[leaf] += 1
        spent[leaf] += total - state["before"]
        state["before"] = total

    def leave(*_: Any) -> None:
        state["mode"].__exit__(None, None, None)

    hooks.callback(block.register_forward_pre_hook(enter).remove)
    for leaf in leaves(block):
        hooks.callback(leaf.register_forward_hook(ran).remove)
    hooks.callback(block.register_forward_hook(leave, always_call=True).remove)
