"""Experiment 24: what should be kept? The same lists, and replayed are velocities, hidden states, clean estimates.

A hidden state goes through the rest of the model in each reused step, with that step's time; the others do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.clean import FRESH, Batch, Regime, mean_and_worst, stepped
from experiments.common import kept, load, publish
from experiments.plan import COMPUTED

VIDEOS = 6
REGIMES = (Regime(30, 1.0), Regime(50, 5.0))
KINDS = ("velocity", "velocity less latents", "hidden state", "what the blocks add", "clean estimate")


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    rows: list[list[Any]] = [["regime", *KINDS]]
    figures = {}
    for regime in REGIMES:
        found = kept("features", pipe, [regime.title], partial(measured, pipe, regime))
        figures[regime.title] = found
        rows.append([regime.title, *(mean_and_worst(found[kind]) for kind in KINDS)])
    publish("features", figures, pipe, rows)


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """PSNR of each video by what is replayed."""
    batch, listed = Batch(pipe, regime, FRESH[:VIDEOS]), regime.listed(COMPUTED)
    return {"listed": listed, **{kind: made(batch, listed, kind).tolist() for kind in KINDS}}


def made(batch: Batch, listed: Sequence[int], kind: str) -> Tensor:
    """The videos of a list with one kind of feature replayed."""
    scheduler, latents, kept_one = batch.regime.scheduler(), batch.latents[0], batch.latents[0]
    record: list[tuple[Tensor, Tensor]] = []
    for step, sigma in enumerate(batch.sigmas[:-1]):
        if step in listed:
            with watched(batch.pipe.transformer.blocks, record):
                clean = batch.estimate(latents, sigma)
            velocity = (latents - clean) / sigma
            kept_one = {"clean estimate": clean, "velocity less latents": velocity - latents}.get(kind, velocity)
        elif kind in ("hidden state", "what the blocks add"):
            with replaced(batch.pipe.transformer, record, residual=kind != "hidden state"):
                clean = batch.estimate(latents, sigma)
        elif kind == "clean estimate":
            clean = kept_one
        else:
            clean = latents - sigma * (kept_one + (latents if kind != "velocity" else 0))
        latents = stepped(scheduler, step, latents, clean, sigma)
    return batch.psnr(latents)


@contextmanager
def watched(blocks: Any, record: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Notes what enters the first block and leaves the last one, in each forward: with the prompt, and without."""
    record.clear()
    entered: list[Tensor] = []
    hooks = [
        blocks[0].register_forward_pre_hook(lambda _, given: entered.append(given[0])),
        blocks[-1].register_forward_hook(lambda _, given, left: record.append((entered[-1], left))),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replaced(transformer: Any, record: Sequence[tuple[Tensor, Tensor]], residual: bool) -> Iterator[None]:
    """In the place of all blocks stands one that replays, forward by forward."""
    blocks, turns = transformer.blocks, iter(record)

    def replay(hidden: Tensor) -> Tensor:
        before, left = next(turns)
        return hidden + left - before if residual else left

    transformer.blocks = nn.ModuleList([Replay(replay)])
    try:
        yield
    finally:
        transformer.blocks = blocks


class Replay(nn.Module):
    """A block that answers from what is kept."""

    def __init__(self, replay: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.replay = replay

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the replay."""
        return self.replay(hidden)


if __name__ == "__main__":
    main()
