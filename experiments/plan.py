"""Experiment 17: planned lists. What is kept, what is done in between, where the denoiser is evaluated, which branches.

Everything is done on the guided clean estimate z = x - sigma v of a batch of videos in plain PyTorch, without the
engine: eight videos to fit on, sixteen others to judge by. With few videos 1 dB means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bwcache.policies.planned import FAR
from experiments.clean import USUAL, Batch, Fill, Past, line, mean_and_worst, run
from experiments.common import load, publish

FITTED, JUDGED, FIRST = 8, 16, 64
COMPUTED = 10
AHEAD = 0.3
"""How far into a window the denoiser is evaluated, where it looks ahead."""


BOUNDED: dict[str, Any] = {"ahead": 0.5, "far": FAR}
"""As `Planned(ahead=.5)` does it: in the middle, where the way there is foretold to do little damage."""


def fit(target: Tensor, columns: Sequence[Tensor], prior: Sequence[float], ridge: float = 0.01) -> list[float]:
    """Weights of the columns after the first for a target, by least squares on the videos to fit on.

    The first column takes what is left to a sum of one.
    """
    if len(columns) == 1:
        return [1.0]
    moved = torch.stack([(column - columns[0])[:FITTED].flatten() for column in columns[1:]], 1).double()
    before = torch.tensor(prior[1 : len(columns)], dtype=torch.float64)
    wanted = (target - columns[0])[:FITTED].flatten().double() - moved @ before
    gram = moved.T @ moved
    more = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)), moved.T @ wanted)
    weights = (before + more).tolist()
    return [1 - sum(weights), *weights]


def fitted(batch: Batch, listed: Sequence[int], passes: int = 3, **how: Any) -> Fill:
    """Weights of the last three estimates for each window, fitted on the trajectory that the weights so far make.

    Args:
        batch, listed: as of `run`.
        passes: so often.
        how: where the denoiser is evaluated, as of `run`.
    """
    weights: dict[int, list[float]] = {}
    found: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def fill(batch: Batch, i: int, j: int, latents: Tensor, past: Past) -> Any:
        found[i] = latents, [clean for _, clean in past]
        own = weights.get(i, [1.0])
        made = torch.stack([share * clean for share, clean in zip(own, found[i][1], strict=False)]).sum(0)
        return lambda k: made

    for _ in range(passes):
        run(batch, listed, fill, **how)
        for i, j in zip(listed, [*listed[1:], batch.steps], strict=True):
            if i in found:
                latents, columns = found[i]
                left = batch.sigmas[j] / batch.sigmas[i + 1]
                target = (batch.latents[j] - left * latents) / (1 - left)
                weights[i] = fit(target, columns, [*weights.get(i, [1.0]), 0.0, 0.0])
    return fill


def residual(batch: Batch, end: int, columns: list[Tensor], begin: int) -> float:
    """Relative error of the mean estimate of a window by least squares, on the videos to judge by."""
    mean = batch.clean[begin:end].mean(0)
    shares = fit(mean, columns, [1.0, *[0.0] * (len(columns) - 1)], 1e-4)
    made = torch.stack([share * column for share, column in zip(shares, columns, strict=True)]).sum(0)
    return float((made - mean)[FITTED:].norm() / mean[FITTED:].norm())


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    names = ("held", "a third", "all of the line", "look ahead", "fitted", "fitted, look ahead")
    rows: list[list[Any]] = [["regime", "list", *names]]
    figures: dict[str, Any] = {"fitted on": FITTED, "judged by": JUDGED, "regimes": {}}
    for said in USUAL:
        name, listed = said.title, said.listed(COMPUTED)
        batch = Batch(pipe, said, range(FIRST, FIRST + FITTED + JUDGED), seeds=0)
        found = {
            "held": run(batch, listed, line(0.0)),
            "a third": run(batch, listed, line(0.3)),
            "line": run(batch, listed, line(1.0)),
            "look ahead": run(batch, listed, line(0.0), AHEAD),
            "fitted": run(batch, listed, fitted(batch, listed)),
            "fitted, look ahead": run(batch, listed, fitted(batch, listed, **BOUNDED), **BOUNDED),
        }
        rows.append(
            [name, ", ".join(map(str, listed)), *(mean_and_worst(one[FITTED:].tolist()) for one in found.values())]
        )
        p, i, j = listed[COMPUTED // 2 - 1 : COMPUTED // 2 + 2]
        z, c, u = batch.clean, batch.branches[0], batch.branches[1]
        computed = {"both": [z[i], z[p]], "with the prompt alone": [c[i], c[p], u[p]], "neither": [z[p]]}
        figures["regimes"][name] = {
            "listed": listed,
            "psnr": {key: value[FITTED:].tolist() for key, value in found.items()},
            "window": (p, i, j),
            "residual": {name: residual(batch, j, columns, i) for name, columns in computed.items()},
            "drift": drift(batch),
        }
    publish("plan", figures, pipe, rows)


def drift(batch: Batch) -> list[list[float]]:
    """Noise, and how far the estimate moves in one step relative to the clean latents, per unit of log-SNR."""
    z, found = batch.clean, []
    size = float(z[-1].norm())
    for k in range(1, batch.steps - 1):
        here, there = batch.sigmas[k], batch.sigmas[k + 1]
        apart = math.log((1 - there) / there) - math.log((1 - here) / here)
        found.append([here, float((z[k + 1] - z[k]).norm()) / size / apart])
    return found


if __name__ == "__main__":
    main()
