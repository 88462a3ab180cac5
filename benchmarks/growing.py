"""What the engine costs as models grow: by tokens, by blocks, by batch. `python -m benchmarks.growing` prints JSON.

The denoiser is a chain of blocks that do nothing, so that what is left is the engine: the time of a forward with a
session less that of one without, each side a module of its own, in turns, by the seconds that the one thread worked.
What must grow with the tokens is measured apart: to keep an output is one copy of a hidden state and one sum over it,
to hand it out again is one copy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from tqdm import tqdm

import bwcache
from benchmarks.common import publish

CHANNELS = 16
TOKENS, BLOCKS, BATCH = 4096, 30, 1
"""The middle: where one of them grows, the others stay here."""

TOKENS_ASKED = (256, 1024, 4096, 16_384, 65_536)
BLOCKS_ASKED = (6, 12, 30, 60)
BATCHES_ASKED = (1, 2, 4, 8)

PASSES = 6
STEPS = 1000
REUSES = bwcache.FixedInterval(interval=STEPS)

SIDES: dict[str, bwcache.Policy[Any]] = {
    "never reuses": bwcache.BWCache(threshold=0),
    "measures": bwcache.NeverReuse(measures="default"),
    "computes and keeps": bwcache.FixedInterval(warmup=STEPS),
    "reuses": REUSES,
}

ROW = bwcache.BlockSpec("Chain", (bwcache.BlockList("blocks"),))


class Nothing(nn.Module):
    """A block that does nothing."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[B, N, C]`, as it came."""
        return hidden_states


class Chain(nn.Module):
    """A denoiser of such blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Nothing() for _ in range(blocks))
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, hidden_states: Tensor, timestep: float) -> Tensor:
        """`[B, N, C]`, as it came."""
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


def seconds(work: Callable[[], object]) -> float:
    """Seconds that this thread worked: what else runs on the machine does not count."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def measured(place: tuple[int, int, int], forwards: int) -> dict[str, float]:
    """Median seconds of one forward on each side, and of the work on hidden states that no engine can avoid.

    Args:
        place: tokens, blocks and batch.
        forwards: on each side.
    """
    tokens, blocks, batch = place
    latents = torch.randn(batch, tokens, CHANNELS, generator=torch.Generator().manual_seed(0))
    modules = {side: Chain(blocks) for side in ("no session", *SIDES)}
    spent: dict[str, list[float]] = {side: [] for side in (*modules, "copy", "sum")}
    kept = latents.clone()
    with ExitStack() as undo, torch.no_grad():
        for side, policy in SIDES.items():
            undo.enter_context(bwcache.attach(modules[side], policy, steps=STEPS, spec=ROW))
        sides = list(modules.items())
        for i in range(forwards):
            for side, module in sides[i % len(sides) :] + sides[: i % len(sides)]:
                spent[side].append(seconds(lambda module=module, i=i: module(latents, float(STEPS - i))))  # type: ignore[misc]
            spent["copy"].append(seconds(lambda: kept.copy_(latents)))
            spent["sum"].append(seconds(lambda: latents.sum(dtype=torch.float32)))
    return {side: statistics.median(taken[len(taken) // 4 :]) for side, taken in spent.items()}


def cost(found: dict[str, float]) -> dict[str, float]:
    """What each side takes more than no session, without copies and sums of hidden states, in seconds."""
    own = {side: found[side] - found["no session"] for side in SIDES}
    own["computes and keeps"] -= found["copy"] + found["sum"]
    own["reuses"] -= found["copy"]
    return own


def slope(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """The line of least squares: at 0, and per one more."""
    rise, start = statistics.linear_regression(xs, ys)
    return start, rise


def cells(forwards: int, tokens: Sequence[int], blocks: Sequence[int], batches: Sequence[int]) -> list[dict[str, Any]]:
    """One of the three grows, the others stay in the middle; of several passes over each place the quietest counts.

    A machine that others use too is slower for seconds at a time, by more than what two places differ.
    """
    asked = [(n, BLOCKS, BATCH) for n in tokens] + [(TOKENS, n, BATCH) for n in blocks]
    asked += [(TOKENS, BLOCKS, n) for n in batches]
    places = list(dict.fromkeys(asked))
    passes: dict[tuple[int, int, int], list[dict[str, float]]] = {place: [] for place in places}
    measured((TOKENS, BLOCKS, BATCH), max(forwards // 4, 4))
    for place in tqdm(places * PASSES, "growing"):
        passes[place].append(measured(place, max(forwards // PASSES, 4)))
    found = []
    for place, taken in passes.items():
        quietest = min(taken, key=lambda seconds: sum(seconds.values()))
        where = dict(zip(("tokens", "blocks", "batch"), place, strict=True))
        found.append({**where, "seconds": quietest, "cost": cost(quietest)})
    return found


def along(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The cells in which only this one differs from the middle, in order."""
    middle = {"tokens": TOKENS, "blocks": BLOCKS, "batch": BATCH}
    rows = [cell for cell in found if all(cell[other] == value for other, value in middle.items() if other != name)]
    return sorted(rows, key=lambda cell: cell[name])


def lines(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each side: microseconds per step and per block."""
    rows = along(found, "blocks")
    result = {}
    for side in SIDES:
        start, rise = slope([row["blocks"] for row in rows], [1e6 * row["cost"][side] for row in rows])
        most = max(1e6 * row["cost"][side] / row["blocks"] for row in rows)
        result[side] = {"microseconds_per_step": start, "microseconds_per_block": rise, "highest_per_block": most}
    return result


def main(
    forwards: Annotated[int, typer.Option(help="forwards of each side at each place")] = 600,
    tokens: Annotated[list[int], typer.Option(help="numbers of tokens")] = list(TOKENS_ASKED),  # noqa: B006
    blocks: Annotated[list[int], typer.Option(help="numbers of blocks")] = list(BLOCKS_ASKED),  # noqa: B006
    batch: Annotated[list[int], typer.Option(help="sizes of the batch")] = list(BATCHES_ASKED),  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="also write the JSON here")] = None,
) -> None:
    """Measure how the engine's own cost grows."""
    torch.set_num_threads(1)
    found = cells(forwards, tokens, blocks, batch)
    figures = {
        "forwards": forwards // PASSES,
        "passes": PASSES,
        "channels": CHANNELS,
        "middle": {"tokens": TOKENS, "blocks": BLOCKS, "batch": BATCH},
        "lines": lines(found),
        **{name: along(found, name) for name in ("tokens", "blocks", "batch")},
    }
    publish(Chain(1), figures, out)


if __name__ == "__main__":
    typer.run(main)
