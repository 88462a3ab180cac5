"""Experiment 19, second part: lists that are planned with the response as it was measured, beside those of `Planned`.

Where errors of held estimates grow, the plan's curve is too low. Are its lists the worse for it?
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from bwcache.policies import planning
from experiments.clean import FRESH, THIRD, Batch, Regime, mean_and_worst, run
from experiments.common import kept, load, publish

SEEDS = 2000
"""Noises that are not those on which the response was measured."""
REGIME, COMPUTED = Regime(50, 5.0), (8, 10)
GROWN: planning.Curve = (
    (1.0, 9.0), (0.97, 6.0), (0.95, 2.6), (0.92, 2.0), (0.88, 1.5), (0.83, 0.9), (0.77, 0.3), (0.6, 0.25),
    (0.5, 0.24), (0.37, 0.2), (0.25, 0.28), (0.12, 0.4), (0.06, 0.58), (0.0, 1.0),
)  # fmt: skip
"""Medians of errors of held estimates, the early ones between both schedules."""
CURVES = {
    "as planned": planning.RESPONSE,
    "as measured": GROWN,
    "its root early": tuple((noise, value if noise < 0.8 else value**0.5) for noise, value in GROWN),
}


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    found = kept("response_lists", pipe, [REGIME.title], partial(measured, pipe))
    rows: list[list[Any]] = [["response", "computed", "list", "a third"]]
    rows += [
        [one["curve"], one["computed"], ", ".join(map(str, one["listed"])), mean_and_worst(one["psnr"])]
        for one in found["rows"]
    ]
    publish("response_lists", found, pipe, rows)


def measured(pipe: Any) -> dict[str, Any]:
    """The lists, and the PSNR of each video."""
    batch, rows = Batch(pipe, REGIME, FRESH, SEEDS), []
    for computed in COMPUTED:
        for name, curve in CURVES.items():
            with planned_with(curve):
                listed = REGIME.listed(computed)
            psnr = run(batch, listed, THIRD).tolist()
            rows.append({"curve": name, "computed": computed, "listed": listed, "psnr": psnr})
    return {"rows": rows}


@contextmanager
def planned_with(curve: planning.Curve) -> Iterator[None]:
    """Another response for a while."""
    own = planning.RESPONSE
    planning.damages.cache_clear()
    planning.RESPONSE = curve
    try:
        yield
    finally:
        planning.damages.cache_clear()
        planning.RESPONSE = own


if __name__ == "__main__":
    main()
