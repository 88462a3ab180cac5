"""Experiment 20: one window alone. Everything else is computed, so that nothing but the window is judged.

Held and foretold along the line, in the velocity v and in the clean estimate z = x - sigma v; and the denoiser
evaluated inside the window, at the point to which the estimate of the step before leads. Every window begins with a
computed step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.clean import Batch, Regime, stepped, within
from experiments.common import kept, load, publish

CASES: tuple[tuple[Regime, tuple[int, ...]], ...] = ((Regime(30, 1.0), (2, 5, 10)), (Regime(50, 5.0), (6,)))
"""Reused steps."""
PLACES = ("early", "middle", "late")
BEGINS = {"early": 0.92, "middle": 0.6}
"""Noise of the computed step; the late window ends before the last step."""
LINES = {"held": (0.0, 0.0), "line": (1.0, 1e9), "bounded": (1.0, 1.5), "a third": (0.3, 1.5)}
"""How long, and how many gaps far at most."""
AHEAD = (0.25, 0.5, 0.75)


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    figures: dict[str, Any] = {}
    names = [*(f"{kind}: {name}" for kind in "vz" for name in LINES), *(f"ahead {far:g}" for far in AHEAD)]
    rows: list[list[Any]] = [["regime", "window", "noise", *names]]
    for regime, lengths in CASES:
        made: list[Batch] = []
        for place in PLACES:
            for length in lengths:
                key = [regime.title, place, length]

                def make(regime: Regime = regime, place: str = place, length: int = length, made: Any = made) -> Any:
                    if not made:
                        made.append(Batch(pipe, regime))
                    return measured(made[0], place, length)

                found = kept("window", pipe, key, make)
                figures[", ".join(map(str, key))] = found
                own = [torch.tensor(found["psnr"][name]) for name in names]
                best = max(range(len(own)), key=lambda n: float(own[n].mean()))
                told = [f"{one.mean():.1f} / {one.min():.1f}" for one in own]
                told[best] = f"**{told[best]}**"
                i, j = found["window"]
                noise = f"{regime.sigmas[i]:.2f} to {regime.sigmas[j]:.2f}"
                rows.append([regime.title, f"{place}, {i + 1} to {j - 1}", noise, *told])
    publish("window", figures, pipe, rows)


def measured(batch: Batch, place: str, length: int) -> dict[str, Any]:
    """The window's first and next computed step, and the PSNR of each video under each way to fill it."""
    i = batch.steps - 2 - length
    if place in BEGINS:
        i = next(k for k in range(1, batch.steps) if batch.sigmas[k] <= BEGINS[place])
    j = i + length + 1
    found = {f"z: {name}": alone(batch, i, j, along(batch, i, batch.clean, *how)) for name, how in LINES.items()}
    for name, how in LINES.items():
        found[f"v: {name}"] = alone(batch, i, j, velocity(batch, along(batch, i, velocities(batch), *how)))
    for far in AHEAD:
        at = within(batch.sigmas, i, j, far)
        there = batch.latents[i] * (at / batch.sigmas[i]) + batch.clean[i - 1] * (1 - at / batch.sigmas[i])
        estimate = batch.estimate(there, at)
        found[f"ahead {far:g}"] = alone(batch, i, j, lambda k, latents, estimate=estimate: estimate, opens=True)
    return {"window": (i, j), "psnr": {name: psnr.tolist() for name, psnr in found.items()}}


def velocities(batch: Batch) -> Tensor:
    """Of the uncached run."""
    sigmas = torch.tensor(batch.sigmas[:-1]).view(-1, 1, 1, 1, 1, 1)
    return (batch.latents[:-1] - batch.clean) / sigmas


def along(batch: Batch, i: int, features: Tensor, length: float, reach: float) -> Any:
    """The way from one step to the next, gone on."""
    gap = batch.sigmas[i - 1] - batch.sigmas[i]
    turn = features[i] - features[i - 1]
    return lambda k, latents: features[i] + length * min((batch.sigmas[i] - batch.sigmas[k]) / gap, reach) * turn


def velocity(batch: Batch, along: Any) -> Any:
    """The clean estimate that a velocity means at the latents of now."""
    return lambda k, latents: latents - batch.sigmas[k] * along(k, latents)


def alone(batch: Batch, i: int, j: int, estimate: Any, opens: bool = False) -> Tensor:
    """PSNR where the steps from i + 1 on, or from i on where the estimate opens the window, are reused until j."""
    scheduler, first = batch.regime.scheduler(), i if opens else i + 1
    latents = batch.latents[first]
    for k in range(first, batch.steps):
        clean = estimate(k, latents) if k < j else batch.estimate(latents, batch.sigmas[k])
        latents = stepped(scheduler, k, latents, clean, batch.sigmas[k])
    return batch.psnr(latents)


if __name__ == "__main__":
    main()
