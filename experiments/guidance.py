"""Experiment 22: does a planned list depend on the scale of guidance? The list knows nothing of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from experiments.clean import FRESH, HELD, THIRD, Batch, Regime, mean_and_worst, run
from experiments.common import kept, load, publish
from experiments.plan import AHEAD, COMPUTED, drift

VIDEOS = 6
SCALES = (1.0, 4.0, 8.0)
SCHEDULES = ((50, 5.0),)
LEVELS = (0.9, 0.6, 0.3)
"""Noise at which the drift is shown."""


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    levels = [f"drift at {level:g}" for level in LEVELS]
    rows: list[list[Any]] = [["schedule", "guidance", "held", "a third", "look ahead", *levels]]
    figures = {}
    for steps, shift in SCHEDULES:
        for scale in SCALES:
            regime = Regime(steps, shift, guidance=scale)
            key = [regime.title, scale]
            found = kept("guidance", pipe, key, partial(measured, pipe, regime))
            figures[f"{regime.title}, guidance {scale:g}"] = found
            near = [nearest(found["drift"], level) for level in LEVELS]
            own = [mean_and_worst(found[name]) for name in ("held", "a third", "look ahead")]
            rows.append([regime.title, f"{scale:g}", *own, *(f"{one:.2f}" for one in near)])
    publish("guidance", figures, pipe, rows)


def nearest(curve: list[list[float]], noise: float) -> float:
    """The value of the point that lies nearest."""
    return min((abs(at - noise), value) for at, value in curve)[1]


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """PSNR of each video with ten computed steps, and how far the estimates move."""
    batch, listed = Batch(pipe, regime, FRESH[:VIDEOS]), regime.listed(COMPUTED)
    found = {
        "held": run(batch, listed, HELD),
        "a third": run(batch, listed, THIRD),
        "look ahead": run(batch, listed, HELD, AHEAD),
    }
    return {"listed": listed, "drift": drift(batch), **{name: psnr.tolist() for name, psnr in found.items()}}


if __name__ == "__main__":
    main()
