"""Experiment 33: how much of an error is seen in the frames, by the noise at which it was made.

One window alone is reused, with three tenths of the line as `Planned` has it, and everything else is computed. What the
frames are off by, over what the final latents are: an error of the last windows is fine detail, and decodes to less.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bwcache.features import Bounded
from experiments.clean import Batch, Regime, stepped
from experiments.common import kept, load, publish

REGIMES = (Regime(50, 5.0), Regime(30, 3.0))
REUSED = (1, 2, 4)
LEFT = (0, 1, 2, 3, 5, 7, 14)
"""Steps that are computed after the window."""
LINE = Bounded()


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    rows: list[list[Any]] = [["regime", "noise after the window", "final latents, dB", "frames, dB", "of these, seen"]]
    figures: dict[str, Any] = {}
    for regime in REGIMES:
        made: list[Batch] = []
        found = [
            [
                kept("seen", pipe, [regime.title, left, reused], partial(window, pipe, regime, made, left, reused))
                for reused in REUSED
            ]
            for left in LEFT
        ]
        usual = over(found[-1])
        for left, own in zip(LEFT, found, strict=True):
            noise = regime.sigmas[regime.steps - left]
            levels = [" / ".join(f"{one[of]:.0f}" for one in own) for of in ("latents", "frames")]
            rows.append([regime.title, f"{noise:.2f}", *levels, f"{10 ** ((over(own) - usual) / 20):.2f}"])
        figures[regime.title] = found
    publish("seen", figures, pipe, rows)


def over(found: list[dict[str, float]]) -> float:
    """How far the frames' error lies above the latents', mean over the windows, dB."""
    return sum(one["frames"] - one["latents"] for one in found) / len(found)


def window(pipe: Any, regime: Regime, made: list[Batch], left: int, reused: int) -> dict[str, float]:
    """The mean square error of the final latents over theirs, and of the frames, dB, over all videos."""
    if not made:
        made.append(Batch(pipe, regime))
    batch, end = made[0], regime.steps - left
    first = end - 1 - reused
    scheduler, latents = regime.scheduler(), batch.latents[first + 1]
    for k in range(first + 1, regime.steps):
        clean = line(batch, first, k) if k < end else batch.estimate(latents, batch.sigmas[k])
        latents = stepped(scheduler, k, latents, clean, batch.sigmas[k])
    true = batch.latents[-1]
    apart = (latents - true).flatten(1).square().sum(1) / true.flatten(1).square().sum(1)
    frames = (batch.decoded(latents) - batch.uncached).square().mean()
    return {"latents": decibels(apart.mean()), "frames": decibels(frames)}


def line(batch: Batch, first: int, k: int) -> Tensor:
    """What is taken in a reused step for the estimate."""
    sigmas, newest, older = batch.sigmas, batch.clean[first], batch.clean[first - 1]
    gaps = min((sigmas[first] - sigmas[k]) / (sigmas[first - 1] - sigmas[first]), LINE.reach)
    return newest + LINE.length * gaps * (newest - older)


def decibels(value: Tensor) -> float:
    """Of a mean square."""
    return float(10 * value.log10())


if __name__ == "__main__":
    main()
