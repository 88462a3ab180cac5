"""Experiment 21: where the error of a planned list comes from.

From the path (the denoiser is asked at latents that have drifted), from within the windows (what it said at the right
latents is held), or from the first windows (where the layout is decided)? Each is taken away in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from experiments.clean import HELD, THIRD, USUAL, Batch, Regime, mean_and_worst, run
from experiments.common import kept, load, publish

COMPUTED = 10
PARTS = {"first windows alone": (1.0, 0.9), "middle alone": (0.9, 0.4), "last alone": (0.4, 0.0)}
"""Windows that begin at these levels of noise are reused, all else is computed."""
AHEAD = {"ahead .3": 0.3, "ahead .5": 0.5}


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    figures: dict[str, Any] = {}
    for regime in USUAL:
        figures[regime.title] = kept("remaining", pipe, [regime.title], partial(measured, pipe, regime))
    names = [name for name in next(iter(figures.values())) if name != "listed"]
    rows = [["", *figures], *([name, *(mean_and_worst(one[name]) for one in figures.values())] for name in names)]
    publish("remaining", figures, pipe, rows)


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """The list, and the PSNR of each video in each way."""
    batch = Batch(pipe, regime)
    listed = batch.regime.listed(COMPUTED)
    found: dict[str, Any] = {"held": run(batch, listed, HELD), "a third": run(batch, listed, THIRD)}
    found["a third, asked at the true latents"] = run(batch, listed, THIRD, true_point=True)
    for name, far in AHEAD.items():
        found[name] = run(batch, listed, HELD, far)
        found[f"{name}, at the true point"] = run(batch, listed, HELD, far, true_point=True)
    for name, (high, low) in PARTS.items():
        found[name] = run(batch, sorted({*listed, *outside(batch, listed, high, low)}), THIRD)
    return {"listed": listed, **{name: psnr.tolist() for name, psnr in found.items()}}


def outside(batch: Batch, listed: Sequence[int], high: float, low: float) -> Iterator[int]:
    """The steps of all windows that do not begin between two levels of noise."""
    for i, j in zip(listed, [*listed[1:], batch.steps], strict=True):
        if not high >= batch.sigmas[i] > low:
            yield from range(i, j)


if __name__ == "__main__":
    main()
