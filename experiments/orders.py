"""Experiment 23: planned lists under solvers of higher order, which keep estimates of their own, and fewer steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from experiments.clean import FRESH, HELD, THIRD, Batch, Regime, mean_and_worst, run
from experiments.common import kept, load, publish
from experiments.plan import AHEAD, COMPUTED

STEPS, SHIFT, VIDEOS = 50, 5.0, 6
SOLVERS = ("DPM++ 2M", "UniPC, order 3")


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    figures = {}
    for solver in SOLVERS:
        regime = Regime(STEPS, SHIFT, solver)
        figures[solver] = kept("orders", pipe, [regime.title], partial(measured, pipe, regime))
    names = [name for name in next(iter(figures.values())) if name != "listed"]
    rows = [[f"solver, shift {SHIFT:g}, {STEPS} steps", *names]]
    rows += [[solver, *(mean_and_worst(found[name]) for name in names)] for solver, found in figures.items()]
    publish("orders", figures, pipe, rows)


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """PSNR of each video against the uncached one of the same solver."""
    places = FRESH[:VIDEOS]
    batch, listed = Batch(pipe, regime, places), regime.listed(COMPUTED)
    fewer = Batch(pipe, Regime(COMPUTED, regime.shift, regime.solver), places)
    found = {
        "held": run(batch, listed, HELD),
        "a third": run(batch, listed, THIRD),
        "look ahead": run(batch, listed, HELD, AHEAD),
        f"{COMPUTED} steps in all": batch.psnr(fewer.latents[-1]),
    }
    return {"listed": listed, **{name: psnr.tolist() for name, psnr in found.items()}}


if __name__ == "__main__":
    main()
