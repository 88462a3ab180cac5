"""Experiment 19: what becomes of an error. Latents are disturbed at one noise level, and the run goes on uncached.

Two kinds of error: white noise, and what holding an old estimate does (towards the estimate of some steps before). The
response is the deviation of the final latents over that at the place, both as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bwcache.policies.planning import RESPONSE, at
from experiments.clean import Batch, Regime, stepped
from experiments.common import kept, load, picture, publish

VIDEOS = range(88, 94)
REGIMES = (Regime(30, 1.0), Regime(50, 5.0))
LEVELS = (0.99, 0.97, 0.95, 0.92, 0.88, 0.83, 0.77, 0.7, 0.6, 0.5, 0.38, 0.25, 0.14, 0.07)
SIZE = 0.03
"""Of the error, relative to the clean latents."""
BACK = 3
"""Steps."""
KINDS = ("white", "held")


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    figures = {}
    for regime in REGIMES:
        figures[regime.title] = kept("response", pipe, [regime.title], partial(measured, pipe, regime))
    rows: list[list[Any]] = [["noise", "as planned", *(f"{title}: {kind}" for title in figures for kind in KINDS)]]
    levels = sorted({round(level, 2) for found in figures.values() for level in found["levels"]}, reverse=True)
    for level in levels:
        told = [_at(found, kind, level) for found in figures.values() for kind in KINDS]
        rows.append([f"{level:.2f}", f"{at(RESPONSE, level):.2f}", *told])
    publish("response", figures, pipe, rows)
    draw(figures)


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """Noise levels, and the response of each video at each of them, by kind of error."""
    batch = Batch(pipe, regime, VIDEOS)
    steps = sorted({min(range(1, batch.steps), key=lambda k: abs(batch.sigmas[k] - level)) for level in LEVELS})
    found: dict[str, Any] = {kind: [] for kind in KINDS}
    final = batch.latents[-1]
    size = SIZE * final.flatten(1).norm(dim=1)
    for step in steps:
        held = batch.clean[max(step - BACK, 0)] - batch.clean[step]
        white = torch.randn(final.shape, generator=torch.Generator().manual_seed(step))
        for kind, way in (("white", white), ("held", held)):
            error = way * (size / way.flatten(1).norm(dim=1)).view(-1, 1, 1, 1, 1)
            deviation = gone_on(batch, step, batch.latents[step] + error) - final
            found[kind].append((deviation.flatten(1).norm(dim=1) / size).tolist())
    return {"levels": [batch.sigmas[step] for step in steps], **found}


def gone_on(batch: Batch, step: int, latents: Tensor) -> Tensor:
    """The final latents of runs that go on from a step without a cache."""
    scheduler = batch.regime.scheduler()
    for k in range(step, batch.steps):
        latents = stepped(scheduler, k, latents, batch.estimate(latents, batch.sigmas[k]), batch.sigmas[k])
    return latents


def _at(found: dict[str, Any], kind: str, level: float) -> str | None:
    """Median, lowest and highest at a level, where the regime has it."""
    for place, own in enumerate(found["levels"]):
        if round(own, 2) == level:
            values = found[kind][place]
            return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    return None


def draw(figures: dict[str, Any]) -> None:
    """Medians over the noise, every video as a dot, and the planned curve."""
    grid = np.linspace(0, 1, 200)
    with picture("response", 2, (11, 4)) as axes:
        for one, kind, name in zip(
            axes, KINDS, ("white noise", f"towards the estimate of {BACK} steps before"), strict=True
        ):
            one.plot(grid, [at(RESPONSE, level) for level in grid], "k-", lw=2, label="as planned")
            for number, (title, found) in enumerate(figures.items()):
                values = np.array(found[kind])
                colour = f"C{number}"
                one.semilogy(found["levels"], np.median(values, axis=1), "o-", color=colour, label=title)
                one.plot(
                    np.repeat(found["levels"], values.shape[1]), values.ravel(), ".", color=colour, alpha=0.3, ms=4
                )
            one.invert_xaxis()
            one.set_xlabel("noise at which the latents are disturbed")
            one.set_ylabel("deviation at the end, over the error")
            one.set_title(name, fontsize=10)
            one.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
