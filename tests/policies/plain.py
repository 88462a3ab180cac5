"""A stack of blocks that is skipped by hand: plain functions in the place of the blocks' forwards, no engine.

What oracles have in common: what enters the first block is remembered; in a step that is not computed the blocks from
`first` on hand their inputs on, and the last of them returns what entered the first block plus what all blocks added to
it when they were last computed. Each branch has a state of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks")


def mean_change(new: Tensor, old: Tensor) -> float:
    """mean|new - old| / mean|old|, in double precision."""
    new, old = new.double(), old.double()
    return float((new - old).abs().mean() / old.abs().mean())


class PlainStack:
    """The blocks of a pipeline's transformer, skipped where `computes` says so.

    Args:
        pipe: the pipeline.
        branches: how many guidance branches have a forward of their own in each step.

    Attributes:
        first: the first block that may be skipped; those before run in every step.
        behind: how many blocks at the end run in every step.
        since: the block from whose input on what is added counts; by default the first of all.
        line: what was decided, forward by forward.
    """

    first, behind, since = 0, 0, 0

    def __init__(self, pipe: Any, branches: int) -> None:
        self.model = pipe.transformer
        self.blocks = [block for name in LISTS for block in getattr(self.model, name, ())]
        self.branches, self.forwards = branches, -1
        self.line: list[str] = []
        self.entered: Tensor | None = None
        self.kept: dict[int, list[tuple[int, Tensor]]] = {}
        self.skips = False
        self.dual: dict[int, bool] = {}

    @property
    def step(self) -> int:
        return self.forwards // self.branches

    @property
    def branch(self) -> int:
        return self.forwards % self.branches

    def computes(self) -> bool:
        """Whether this forward is computed: asked as the first of the blocks that may be skipped is reached."""
        raise NotImplementedError

    def replayed(self, past: list[tuple[int, Tensor]]) -> Tensor:
        """What is added in a skipped step, from what was added in computed ones, newest first."""
        return past[0][1]

    def left(self) -> Tensor:
        """What the last block returns in a skipped step."""
        return self.entered + self.replayed(self.kept[self.branch])

    def begins(self, latents: Tensor) -> None:
        """A forward begins."""

    def enters(self, given: dict[str, Any]) -> None:
        """The first block is reached, with these arguments."""

    def leaves(self, block: int, hidden: Tensor) -> None:
        """A block was computed."""

    def computed(self, added: Tensor) -> None:
        """All blocks were computed."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with ExitStack() as undo:
            self._patch(undo, self.model, self._model(self.model.forward))
            for i, block in enumerate(self.blocks):
                self._patch(undo, block, self._block(i, block.forward, inspect.signature(block.forward)))
            yield

    def _patch(self, undo: ExitStack, module: nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward
        undo.callback(delattr, module, "forward")

    def _model(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            self.begins(kwargs["hidden_states"])
            return inner(*args, **kwargs)

        return forward

    def _block(self, i: int, inner: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
        last = len(self.blocks) - self.behind - 1

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if i == self.since:
                self.entered = given["hidden_states"].clone()
                self.enters(given)
            if i == self.first:
                self.skips = not self.computes()
                self.line.append("reuse" if self.skips else "compute")
            if not self.skips or not self.first <= i <= last:
                returned = inner(*args, **kwargs)
                self.dual[i] = isinstance(returned, tuple)
                hidden = returned[0] if self.dual[i] else returned
                self.leaves(i, hidden)
                if i == last:
                    self._keep(hidden)
                return returned
            hidden = given["hidden_states"]
            if i == last:
                hidden = self.left()
            return (hidden, given["encoder_hidden_states"]) if self.dual[i] else hidden

        return forward

    def _keep(self, hidden: Tensor) -> None:
        added = hidden - self.entered
        self.kept[self.branch] = [(self.step, added.clone()), *self.kept.get(self.branch, [])][:2]
        self.computed(added)


@torch.no_grad()
def run(case: Any, pipe: Any, stack: PlainStack, **call: Any) -> Tensor:
    """The latents that the pipeline makes with the blocks skipped by hand."""
    with stack.at_work():
        return case.run(pipe, **call)
