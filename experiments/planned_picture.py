"""The picture of docs/planned.md: what holding costs, the list that follows from it, and what is done in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bwcache.policies.planning import DRIFT, RESPONSE, at
from experiments.clean import FRESH, THIRD, Batch, Past, Regime, run
from experiments.common import load, picture

REGIME, COMPUTED = Regime(50, 5.0), 9


def main() -> None:
    """Draws it."""
    listed = REGIME.listed(COMPUTED)
    uncached, cached = followed(listed)
    with picture("planned", 3, (15, 4.3)) as (left, middle, right):
        curves(left)
        schedule(middle, listed)
        steps = np.arange(REGIME.steps)
        right.plot(steps, uncached, "-", color="#7f7f7f", lw=2, label="uncached: computed in every step")
        for number, (i, j) in enumerate(zip(listed, [*listed[1:], REGIME.steps], strict=True)):
            label = "planned: held, for three tenths along the line" if number == 1 else None
            right.plot(steps[i:j], cached[i:j], "-", color="C1", lw=2, label=label)
        right.plot(listed, cached[listed], "o", color="C1", ms=6, label="computed")
        right.set_xlabel("step")
        right.set_ylabel("clean estimate, along its way (0 to 1)")
        right.set_title("3. In between: an estimate of one video", fontsize=10)
        right.legend(frameon=False, fontsize=8, loc="lower right")


def curves(axes: Any) -> None:
    """Both curves over the noise."""
    grid = np.linspace(0, 1, 400)
    whole = at(DRIFT, 0.0)
    axes.plot(grid, [at(DRIFT, noise) / whole for noise in grid], lw=2, label="drift: how far the estimate is")
    axes.plot(grid, [at(RESPONSE, noise) for noise in grid], lw=2, label="response: what stays of an error")
    axes.invert_xaxis()
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("share of noise: the run goes from left to right")
    axes.set_title("1. What an error costs", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center")


def schedule(axes: Any, listed: Sequence[int]) -> None:
    """The noise levels of the run, and which of its steps are computed."""
    sigmas = np.array(REGIME.sigmas[:-1])
    for number, (i, j) in enumerate(zip(listed, [*listed[1:], REGIME.steps], strict=True)):
        axes.axvspan(i - 0.5, j - 0.5, color="C0" if number % 2 else "C7", alpha=0.1, lw=0)
    axes.plot(sigmas, "o", color="#c8c8c8", ms=4, label="skipped")
    axes.plot(listed, sigmas[list(listed)], "o", color="C1", ms=6, label="computed")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel(f"step ({REGIME.title})")
    axes.set_ylabel("share of noise")
    axes.set_title(f"2. The list of {len(listed)} steps with the least damage", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


@torch.no_grad()
def followed(listed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One video's estimates at each step, uncached and under the plan, along the way from the first to the last."""
    batch = Batch(load(), REGIME, FRESH[:1])
    made: dict[int, Tensor] = {}

    def fill(batch: Batch, i: int, j: int, latents: Tensor, past: Past) -> Any:
        estimate = THIRD(batch, i, j, latents, past)
        made.update({k: estimate(k) for k in range(i + 1, j)})
        return estimate

    computed: list[Tensor] = []
    ask = batch.estimate
    batch.estimate = lambda latents, sigma: computed.append(ask(latents, sigma)) or computed[-1]  # type: ignore[method-assign,func-returns-value]
    run(batch, listed, fill)
    made |= dict(zip(listed, computed, strict=True))
    first, last = batch.clean[0], batch.clean[-1]
    way = (last - first) / (last - first).square().sum()
    along = [float(((made[k] - first) * way).sum()) for k in range(batch.steps)]
    return np.array([float(((one - first) * way).sum()) for one in batch.clean]), np.array(along)


if __name__ == "__main__":
    main()
