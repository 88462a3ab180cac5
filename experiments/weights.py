"""Experiment 17, further rows: what fitted weights could and could not do.

One weight for all, or weights by channel, by frequency, for the mean over time, by branch: all by least squares on
uncached runs of eight videos, judged on four others. And in videos: weights from uncached runs, and a first
evaluation at a later noise level than that of pure noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bwcache.study.tuning.tables import window_weights
from experiments.clean import HELD, Batch, Past, Regime, mean_and_worst, run, stepped
from experiments.common import kept, load, publish
from experiments.plan import COMPUTED, FIRST, FITTED, fit

JUDGED = 4
REGIMES = (Regime(50, 5.0),)
LATER = (0.99, 0.97)
"""Noise at which the first evaluation stands instead."""


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    figures = {
        regime.title: kept("weights", pipe, [regime.title], partial(measured, pipe, regime)) for regime in REGIMES
    }
    names = list(next(iter(figures.values()))["residual"])
    rows = [["relative error of the windows' mean estimates", *figures]]
    rows += [[name, *(f"{found['residual'][name]:.3f}" for found in figures.values())] for name in names]
    publish("weights", figures, pipe, rows)
    made = list(next(iter(figures.values()))["psnr"])
    body = [[name, *(mean_and_worst(found["psnr"][name]) for found in figures.values())] for name in made]
    publish("weights_videos", {}, pipe, [["", *figures], *body])


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """Residuals over all windows of the list, and the PSNR of videos."""
    batch, listed = Batch(pipe, regime, range(FIRST, FIRST + FITTED + JUDGED), seeds=0), regime.listed(COMPUTED)
    windows = [
        (h, i, j) for h, i, j in zip(listed[:-1], listed[1:], [*listed[2:], regime.steps], strict=True) if j > i + 1
    ]
    found = {name: left_over(batch, windows, way) for name, way in WAYS.items()}
    psnr = {"held": run(batch, listed, HELD), "weights of uncached runs": run(batch, listed, open_loop(batch, listed))}
    psnr |= {f"first evaluation at {level:g}": begun_later(batch, listed, level) for level in LATER}
    return {"listed": listed, "residual": found, "psnr": {name: one[FITTED:].tolist() for name, one in psnr.items()}}


Way = Callable[[Batch, Tensor, int, int], Tensor]
"""Of a window's true mean and the computed steps before and at its beginning: what weights make of the estimates."""


def left_over(batch: Batch, windows: Sequence[tuple[int, int, int]], way: Way) -> float:
    """Relative error over all windows, on the videos to judge by."""
    apart = size = 0.0
    for h, i, j in windows:
        wanted = mean(batch, i, j, batch.clean)
        apart += float((way(batch, wanted, h, i) - wanted)[FITTED:].square().sum())
        size += float(wanted[FITTED:].square().sum())
    return (apart / size) ** 0.5


def mean(batch: Batch, i: int, j: int, estimates: Tensor) -> Tensor:
    """The estimates of a window's reused steps, weighted as they enter the latents at its end."""
    shares, left = window_weights(batch.sigmas, i + 1, j)
    return torch.stack([estimates[k] * float(shares[k]) for k in range(i + 1, j)]).sum(0) / (1 - left)


def summed(wanted: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """The columns with the weights that come closest."""
    weights = fit(wanted, columns, [1.0, *[0.0] * (len(columns) - 1)], 1e-4)
    return torch.stack([weight * column for weight, column in zip(weights, columns, strict=True)]).sum(0)


def one_weight(batch: Batch, wanted: Tensor, h: int, i: int) -> Tensor:
    """The same for all entries."""
    return summed(wanted, [batch.clean[i], batch.clean[h]])


def by_channel(batch: Batch, wanted: Tensor, h: int, i: int) -> Tensor:
    """One for each channel."""
    parts = [summed(wanted[:, c], [batch.clean[i][:, c], batch.clean[h][:, c]]) for c in range(wanted.shape[1])]
    return torch.stack(parts, 1)


def by_frequency(batch: Batch, wanted: Tensor, h: int, i: int) -> Tensor:
    """One for means over two by two entries, one for the rest."""
    return in_two(lambda x: smooth(x, (1, 2, 2)), wanted, batch.clean[i], batch.clean[h])


def by_time(batch: Batch, wanted: Tensor, h: int, i: int) -> Tensor:
    """One for the mean over the frames, one for the rest."""
    return in_two(lambda x: x.mean(2, keepdim=True).expand_as(x), wanted, batch.clean[i], batch.clean[h])


def by_branch(batch: Batch, wanted: Tensor, h: int, i: int) -> Tensor:
    """One for each of guidance and its branch without the prompt."""
    both = batch.branches
    return summed(wanted, [batch.clean[i], batch.clean[h], batch.clean[i] + both[1][h] - both[1][i]])


def in_two(low: Callable[[Tensor], Tensor], wanted: Tensor, *columns: Tensor) -> Tensor:
    """What is low, and the rest, with weights of their own."""
    lows = summed(low(wanted), [low(column) for column in columns])
    return lows + summed(wanted - low(wanted), [column - low(column) for column in columns])


def smooth(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Means over boxes."""
    means = torch.nn.functional.avg_pool3d(x, size)
    return torch.nn.functional.interpolate(means, x.shape[2:], mode="nearest")


WAYS: dict[str, Way] = {
    "nothing fitted: held": lambda batch, wanted, h, i: batch.clean[i],
    "one weight for all": one_weight,
    "for each channel": by_channel,
    "for low and high frequencies": by_frequency,
    "for the mean over time and the rest": by_time,
    "for each branch of guidance": by_branch,
}


def open_loop(batch: Batch, listed: Sequence[int]) -> Any:
    """Weights of the last three estimates for each window, fitted on uncached runs."""
    weights: dict[int, list[float]] = {}
    for place, (i, j) in enumerate(zip(listed, [*listed[1:], batch.steps], strict=True)):
        if j > i + 1:
            columns = [batch.clean[k] for k in reversed(listed[max(place - 2, 0) : place + 1])]
            weights[i] = fit(mean(batch, i, j, batch.clean), columns, [1.0, 0.0, 0.0])

    def fill(batch: Batch, i: int, j: int, latents: Tensor, past: Past) -> Any:
        own = torch.stack([share * clean for share, (_, clean) in zip(weights[i], past, strict=True)]).sum(0)
        return lambda k: own

    return fill


def begun_later(batch: Batch, listed: Sequence[int], level: float) -> Tensor:
    """Held, with the first estimate taken from the same latents at a later noise level."""
    scheduler, latents, clean = batch.regime.scheduler(), batch.latents[0], batch.latents[0]
    for step, sigma in enumerate(batch.sigmas[:-1]):
        if step in listed:
            clean = batch.estimate(latents, sigma if step else level)
        latents = stepped(scheduler, step, latents, clean, sigma)
    return batch.psnr(latents)


if __name__ == "__main__":
    main()
