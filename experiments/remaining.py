"""Experiment 20: where the error of a planned list comes from.

Videos: with single parts of the run reused and all else computed; and with the denoiser asked at the latents of the
uncached run wherever a window follows. Estimates: what each window was filled with lies beside what it should have
been, and the difference is split into what comes of drifted latents (the path) and what comes of holding (within).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bwcache.study.tuning.tables import window_weights
from experiments.clean import HELD, THIRD, USUAL, Batch, Past, Regime, mean_and_worst, run
from experiments.common import kept, load, publish

COMPUTED = 10


def alone(high: float, low: float) -> Callable[[Batch, list[int]], Tensor]:
    """Windows that begin between two levels of noise are reused, all else is computed."""

    def way(batch: Batch, listed: list[int]) -> Tensor:
        return run(batch, sorted({*listed, *outside(batch, listed, high, low)}), THIRD)

    return way


def outside(batch: Batch, listed: Sequence[int], high: float, low: float) -> Iterator[int]:
    """The steps of all windows that do not begin there."""
    for i, j in zip(listed, [*listed[1:], batch.steps], strict=True):
        if not high >= batch.sigmas[i] > low:
            yield from range(i, j)


WAYS: Mapping[str, Callable[[Batch, list[int]], Tensor]] = {
    "held": lambda batch, listed: run(batch, listed, HELD),
    "a third": lambda batch, listed: run(batch, listed, THIRD),
    "ahead .3": lambda batch, listed: run(batch, listed, HELD, 0.3),
    "ahead .5": lambda batch, listed: run(batch, listed, HELD, 0.5),
    "a third, asked at the true latents": lambda batch, listed: run(batch, listed, THIRD, true_point=True),
    "ahead .5, at the true point": lambda batch, listed: run(batch, listed, HELD, 0.5, true_point=True),
    "first windows alone": alone(1.0, 0.9),
    "middle alone": alone(0.9, 0.4),
    "last alone": alone(0.4, 0.0),
}


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    rows: list[list[Any]] = [["", *(regime.title for regime in USUAL)], *([name] for name in WAYS)]
    windows: list[list[Any]] = [["regime", "window", "noise", "path", "within", "both"]]
    figures: dict[str, Any] = {}
    for regime in USUAL:
        made: list[Batch] = []
        found: dict[str, Any] = {"listed": regime.listed(COMPUTED)}
        for row in rows[1:]:
            key = [regime.title, row[0]]
            found[row[0]] = kept("remaining", pipe, key, partial(psnr, pipe, regime, made, row[0]))
            row.append(mean_and_worst(found[row[0]]["psnr"]))
        found["windows"] = kept("remaining", pipe, [regime.title, "windows"], partial(split, pipe, regime, made))
        for i, j, *parts in found["windows"]["rows"]:
            noise = f"{regime.sigmas[i]:.2f} to {regime.sigmas[j]:.2f}"
            windows.append([regime.title, f"{i + 1} to {j - 1}", noise, *(f"{part:.1%}" for part in parts)])
        figures[regime.title] = found
    publish("remaining", figures, pipe, rows)
    publish("remaining_windows", {}, pipe, windows)


def batch_of(pipe: Any, regime: Regime, made: list[Batch]) -> Batch:
    """The videos, made once and only where anything is missing."""
    if not made:
        made.append(Batch(pipe, regime))
    return made[0]


def psnr(pipe: Any, regime: Regime, made: list[Batch], way: str) -> dict[str, Any]:
    """Of each video, one way."""
    return {"psnr": WAYS[way](batch_of(pipe, regime, made), regime.listed(COMPUTED)).tolist()}


def split(pipe: Any, regime: Regime, made: list[Batch]) -> dict[str, Any]:
    """For each window its ends, and the parts of its error relative to the clean latents: path, within, both."""
    batch, rows = batch_of(pipe, regime, made), []
    size = float(batch.latents[-1].norm())

    def fill(batch: Batch, i: int, j: int, latents: Tensor, past: Past) -> Any:
        steps = [next(k for k, sigma in enumerate(batch.sigmas) if sigma == at) for at, _ in past]
        shares, left = window_weights(batch.sigmas, i + 1, j)
        true = THIRD(batch, i, j, latents, [(batch.sigmas[k], batch.clean[k]) for k in steps])
        own = THIRD(batch, i, j, latents, past)

        def mean(estimate: Callable[[int], Tensor]) -> Tensor:
            return torch.stack([estimate(k) * float(shares[k]) for k in range(i + 1, j)]).sum(0) / (1 - left)

        wanted = mean(lambda k: batch.clean[k])
        path, within = mean(own) - mean(true), mean(true) - wanted
        rows.append([i, j, *(float(part.norm()) / size for part in (path, within, path + within))])
        return own

    run(batch, regime.listed(COMPUTED), fill)
    return {"rows": rows}


if __name__ == "__main__":
    main()
