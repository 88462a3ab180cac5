"""Experiment 18: what should a plan add up? Sums of damages, of squares, of fourth powers, or the greatest one alone.

The damage of each window is foretold as `Planned` does it; lists of equally many computed steps are then the best ones
by each objective. All are run with the same predictor, on the same videos.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from bwcache.policies.planning import best, damages
from experiments.clean import THIRD, USUAL, Batch, Regime, mean_and_worst, run
from experiments.common import kept, load, publish

POWERS = {"sum": 1, "squares": 2, "fourth powers": 4, "greatest": 32}
"""Each objective sums this power of the windows' damages; the 32nd is the greatest one, up to ties."""
COMPUTED = (8, 12)
PLANNED = "squares"


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    rows: list[list[Any]] = [["regime", "computed", *POWERS]]
    figures: dict[str, Any] = {}
    for regime in USUAL:
        found = kept("objectives", pipe, [regime.title], partial(measured, pipe, regime))
        figures[regime.title] = found
        for computed in COMPUTED:
            own = [found[f"{name}, {computed}"] for name in POWERS]
            rows.append([regime.title, computed, *(mean_and_worst(one["psnr"]) for one in own)])
    differences = {name: over_all(figures, name) for name in POWERS if name != PLANNED}
    publish("objectives", {"regimes": figures, "over squares": differences}, pipe, rows)
    header = ["objective", "mean, against squares (95 %)", "worst, mean over the rows"]
    publish("objectives_over", {}, pipe, [header, *([name, *said] for name, said in differences.items())])


def listed(regime: Regime, power: float, computed: int) -> list[int]:
    """The list that is best by an objective."""
    windows = damages(tuple(regime.sigmas))
    most = max(max(row) for row in windows)
    return best([[(square / most) ** (power / 2) for square in row] for row in windows], computed=computed)


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """The lists, and the PSNR of every video; equal lists run once."""
    batch = Batch(pipe, regime)
    lists = {f"{name}, {n}": listed(batch.regime, power, n) for name, power in POWERS.items() for n in COMPUTED}
    made = {steps: run(batch, steps, THIRD).tolist() for steps in {tuple(steps) for steps in lists.values()}}
    return {name: {"listed": steps, "psnr": made[tuple(steps)]} for name, steps in lists.items()}


def over_all(figures: dict[str, Any], name: str) -> list[str]:
    """The difference to squares over all regimes and lengths: its mean over the videos, and that of the worst ones."""
    pairs = [
        (found[f"{name}, {n}"]["psnr"], found[f"{PLANNED}, {n}"]["psnr"])
        for found in figures.values()
        for n in COMPUTED
    ]
    apart = np.array([np.subtract(mine, other) for mine, other in pairs]).mean(0)
    chance = np.random.default_rng(0)
    drawn = np.quantile(chance.choice(apart, (2000, len(apart))).mean(1), (0.025, 0.975))
    worst = np.mean([min(mine) - min(other) for mine, other in pairs])
    return [f"{apart.mean():+.2f} dB ({drawn[0]:+.2f} to {drawn[1]:+.2f})", f"{worst:+.2f} dB"]


if __name__ == "__main__":
    main()
