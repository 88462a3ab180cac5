"""How few entries and blocks suffice for the indicator: `python -m benchmarks.sufficient [--out FILE] [--prompts N]`.

Uncached runs of the shapes model are looked at once. At every step each block's output is compared with the one of the
step before, by all its entries and by samples of several sizes. Then every sample size and every choice of blocks is
held against the exact indicator over all blocks: do they lie on the same side of the threshold?
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import captions, load, publish, request
from bwcache.features.indicators import relative_l1
from bwcache.features.sampling import every
from bwcache.measure.call import call

ENTRIES = (16, 32, 64, 128, 256, 384, 768, None)
"""Sample sizes per block, about; None: all entries."""

BLOCKS = (12, 6, 4, 3, 2, 1)
"""How many blocks are compared, evenly spaced, the last one among them."""

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)


class Comparison:
    """Compares the blocks' outputs of each step with those of the step before, for one sample size.

    Attributes:
        entries: about how many per block; None: all.
        taken: how many per block there really are.
        found: of each step after the first, numerators and denominators `[2, T]`, added up over the branches.
    """

    def __init__(self, entries: int | None) -> None:
        self.entries = entries
        self.taken = 0
        self.found: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._old: dict[int, Tensor] = {}

    def record(self, branch: int, block: int, blocks: int, feature: Tensor) -> None:
        """Takes a block's output `[B, …, C]`; each branch and block begins its sample elsewhere, as taps do."""
        if self.entries is None:
            self._rows.append(feature.detach().flatten().clone())
        else:
            n = stride(feature, self.entries)
            self._rows.append(every(n, feature, branch * blocks + block, torch.bfloat16))
        self.taken = len(self._rows[-1])

    def compare(self, branch: int) -> None:
        """The branch's forward is over."""
        new, old = torch.stack(self._rows), self._old.get(branch)
        self._old[branch], self._rows = new, []
        if old is None:
            return
        measured = relative_l1(new, old).double()
        if branch == 0:
            self.found.append(measured)
        else:
            self.found[-1] += measured


def stride(feature: Tensor, entries: int) -> int:
    """n, so that every n-th entry gives about so many, and a walk comes through all channels and tokens."""
    wanted = max(1, feature.numel() // entries)
    return next(n for n in itertools.count(wanted) if all(math.gcd(n, size) == 1 for size in feature.shape[1:]))


@contextmanager
def watched(transformer: Any, branches: int, comparisons: Sequence[Comparison]) -> Iterator[None]:
    """Lets each comparison see every block's output."""
    forwards = itertools.count()
    branch = 0

    def begin(*_: Any) -> None:
        nonlocal branch
        branch = next(forwards) % branches

    def after(block: int) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            for comparison in comparisons:
                comparison.record(branch, block, len(transformer.blocks), output)

        return hook

    def end(*_: Any) -> None:
        for comparison in comparisons:
            comparison.compare(branch)

    with ExitStack() as undo:
        undo.callback(transformer.register_forward_pre_hook(begin).remove)
        for i, block in enumerate(transformer.blocks):
            undo.callback(block.register_forward_hook(after(i)).remove)
        undo.callback(transformer.register_forward_hook(end).remove)
        yield


def chosen(count: int, of: int) -> list[int]:
    """So many blocks, evenly spaced, the last one among them."""
    return [of - 1 - i * of // count for i in reversed(range(count))]


def means(found: list[Tensor], blocks: list[int]) -> list[float]:
    """The indicator of each step: the mean of the blocks' distances (eq. 6 and 7 of BWCache)."""
    return [float((pair[0] / pair[1])[blocks].mean()) for pair in found]


def agreement(exact: list[float], other: list[float]) -> float:
    """In how many steps both lie on the same side, over all thresholds."""
    pairs = [(a < t) == (b < t) for t in THRESHOLDS for a, b in zip(exact, other, strict=True)]
    return sum(pairs) / len(pairs)


def table(comparisons: Sequence[Comparison], blocks: int) -> list[dict[str, Any]]:
    """One row for each sample size and number of blocks."""
    exact = means(next(c.found for c in comparisons if c.entries is None), list(range(blocks)))
    rows = []
    for comparison, count in itertools.product(comparisons, (count for count in BLOCKS if count <= blocks)):
        other = means(comparison.found, chosen(count, blocks))
        errors = [abs(b / a - 1) for a, b in zip(exact, other, strict=True)]
        rows.append(
            {
                "entries_per_block": comparison.taken,
                "all_entries": comparison.entries is None,
                "blocks": count,
                "agreement": agreement(exact, other),
                "relative_error_mean": statistics.fmean(errors),
                "relative_error_max": max(errors),
            }
        )
    return rows


def main(
    prompts: Annotated[int, typer.Option(help="videos, one uncached run each")] = 64,
    out: Annotated[Path | None, typer.Option(help="also write the JSON here")] = None,
) -> None:
    """Measure how few entries and blocks suffice."""
    torch.set_num_threads(1)
    pipe = load()
    comparisons = [Comparison(entries) for entries in ENTRIES]
    steps = 0
    for i, prompt in enumerate(tqdm(captions(prompts), "sufficient")):
        asked = request(prompt, seed=i)
        own = [Comparison(entries) for entries in ENTRIES]
        with watched(pipe.transformer, 2, own):
            call(pipe, asked)
        for total, one in zip(comparisons, own, strict=True):
            total.found += one.found
            total.taken = one.taken
        steps = asked.steps
    figures = {
        "prompts": prompts,
        "steps": steps,
        "compared_steps": len(comparisons[0].found),
        "thresholds": THRESHOLDS,
        "blocks": len(pipe.transformer.blocks),
        "rows": table(comparisons, len(pipe.transformer.blocks)),
    }
    publish(pipe, figures, out)


if __name__ == "__main__":
    typer.run(main)
