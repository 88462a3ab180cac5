"""Experiment 21: one window alone. Everything else is computed, so that nothing but the window is judged.

Held and foretold along the line, in the velocity v and in the clean estimate z = x - sigma v; and the denoiser
evaluated inside the window, at the point to which the estimate of the step before leads. Every window begins with a
computed step. Judged are the latents at the window's end, and of some the videos.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.clean import Batch, Regime, mean_and_worst, stepped, within
from experiments.common import kept, load, publish

REGIME = Regime(30, 1.0)
LENGTHS, SHOWN = (2, 3, 4, 6, 8, 10), 6
"""Reused steps; and of the windows whose videos are made."""
BEGINS = {"early": 0.92, "middle": 0.6, "late": 0.0}
"""Noise of the computed step at most; a late window ends before the last step."""
LINES = {"held": (0.0, 0.0), "line": (1.0, 1e9), "line, bounded": (1.0, 1.5), "a third": (0.3, 1.5)}
"""How long, and how many gaps far at most."""
AHEAD = (0.25, 0.5, 0.75)
VIDEOS = ("v: held", "v: line", "z: held", "z: line", "z: a third", "z: ahead .5")


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    made: list[Batch] = []
    ends, figures = {}, {}
    for place in BEGINS:
        for length in LENGTHS:
            ends[place, length] = kept("window", pipe, [place, length], partial(at_end, pipe, made, place, length))
        figures[place] = kept("window", pipe, [place, "videos"], partial(videos, pipe, made, place))
    ways = list(ends["early", 2]["error"])
    rows: list[list[Any]] = [["window", "noise", *ways]]
    for (place, _), found in ends.items():
        rows.append(
            [*title(place, *found["window"]), *marked(found["error"], min, lambda one: f"{sum(one) / len(one):.2%}")]
        )
    publish("window", {"ends": [*ends.values()], "videos": figures}, pipe, rows)
    body = [
        [*title(place, *one["window"]), *marked(one["psnr"], max, mean_and_worst)] for place, one in figures.items()
    ]
    publish("window_videos", {}, pipe, [["window", "noise", *VIDEOS], *body])


def title(place: str, i: int, j: int) -> list[str]:
    """A window's reused steps and its noise."""
    return [f"{place}, {i + 1} to {j - 1}", f"{REGIME.sigmas[i]:.2f} to {REGIME.sigmas[j]:.2f}"]


def marked(found: dict[str, list[float]], best: Any, shown: Callable[[list[float]], str]) -> list[str]:
    """One figure for each way, the best one in bold."""
    most = best(found, key=lambda name: sum(found[name]))
    return [f"**{shown(one)}**" if name == most else shown(one) for name, one in found.items()]


def at_end(pipe: Any, made: list[Batch], place: str, length: int) -> dict[str, Any]:
    """A window, and the error of each video's latents at its end relative to the clean latents, by way."""
    batch = batch_of(pipe, made)
    i, j = window(place, length)
    error = {}
    for name, (first, estimate) in ways(batch, i, j).items():
        apart = filled(batch, first, j, estimate)[0] - batch.latents[j]
        error[name] = (apart.flatten(1).norm(dim=1) / batch.latents[-1].flatten(1).norm(dim=1)).tolist()
    return {"window": (i, j), "error": error}


def videos(pipe: Any, made: list[Batch], place: str) -> dict[str, Any]:
    """A window, and the PSNR of each video, by way."""
    batch = batch_of(pipe, made)
    i, j = window(place, SHOWN)
    psnr = {}
    for name, (first, estimate) in ways(batch, i, j).items():
        if name in VIDEOS:
            latents, scheduler = filled(batch, first, j, estimate)
            for k in range(j, batch.steps):
                latents = stepped(scheduler, k, latents, batch.estimate(latents, batch.sigmas[k]), batch.sigmas[k])
            psnr[name] = batch.psnr(latents).tolist()
    return {"window": (i, j), "psnr": psnr}


def batch_of(pipe: Any, made: list[Batch]) -> Batch:
    """The videos, made once and only where anything is missing."""
    if not made:
        made.append(Batch(pipe, REGIME))
    return made[0]


def window(place: str, length: int) -> tuple[int, int]:
    """The computed steps at its beginning and after it."""
    late = REGIME.steps - 2 - length
    i = min(late, next(k for k in range(1, REGIME.steps) if REGIME.sigmas[k] <= BEGINS[place] or k == late))
    return i, i + length + 1


Estimate = Callable[[int, Tensor], Tensor]
"""Of a step and the latents there: the clean latents that its prediction means."""


def ways(batch: Batch, i: int, j: int) -> dict[str, tuple[int, Estimate]]:
    """The first step that each way fills, and how."""
    found: dict[str, tuple[int, Estimate]] = {}
    sigmas = torch.tensor(batch.sigmas[:-1]).view(-1, 1, 1, 1, 1, 1)
    velocities = (batch.latents[:-1] - batch.clean) / sigmas
    for name, how in LINES.items():
        found[f"v: {name}"] = i + 1, meant(batch, along(batch, i, velocities, *how))
    for name, how in LINES.items():
        found[f"z: {name}"] = i + 1, along(batch, i, batch.clean, *how)
    for far in AHEAD:
        at = within(batch.sigmas, i, j, far)
        there = batch.latents[i] * (at / batch.sigmas[i]) + batch.clean[i - 1] * (1 - at / batch.sigmas[i])
        found[f"z: ahead {far:g}".replace("0.", ".")] = i, constant(batch.estimate(there, at))
    return found


def along(batch: Batch, i: int, features: Tensor, length: float, reach: float) -> Estimate:
    """The way from one step to the next, gone on."""
    gap, turn = batch.sigmas[i - 1] - batch.sigmas[i], features[i] - features[i - 1]
    return lambda k, latents: features[i] + length * min((batch.sigmas[i] - batch.sigmas[k]) / gap, reach) * turn


def meant(batch: Batch, velocity: Estimate) -> Estimate:
    """What a velocity means at the latents of now."""
    return lambda k, latents: latents - batch.sigmas[k] * velocity(k, latents)


def constant(estimate: Tensor) -> Estimate:
    """The same in every step."""
    return lambda k, latents: estimate


def filled(batch: Batch, first: int, j: int, estimate: Estimate) -> tuple[Tensor, Any]:
    """The latents at j where the steps before are filled, and the scheduler."""
    scheduler, latents = batch.regime.scheduler(), batch.latents[first]
    for k in range(first, j):
        latents = stepped(scheduler, k, latents, estimate(k, latents), batch.sigmas[k])
    return latents, scheduler


if __name__ == "__main__":
    main()
