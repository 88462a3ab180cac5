"""Experiment 28: how much there was to be had, with this predictor and with the true path.

Lists of six to twelve computed steps as `Planned` makes them; each list once as it is, once with the denoiser asked at
the latents of the uncached run wherever a window follows, which no method can know. What lies between them is all that
any way back to the path could win.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from experiments.clean import THIRD, USUAL, Batch, Regime, mean_and_worst, run
from experiments.common import kept, load, publish

COUNTS = (5, 6, 7, 8, 9, 10, 12)
WAYS = {"as it is": False, "at the true latents": True}


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    rows: list[list[Any]] = [["regime", "", *(f"{count} computed" for count in COUNTS)]]
    figures: dict[str, Any] = {}
    for regime in USUAL:
        made: list[Batch] = []
        for way in WAYS:
            found = [
                kept("reach", pipe, [regime.title, way, count], partial(psnr, pipe, regime, made, way, count))["psnr"]
                for count in COUNTS
            ]
            figures[f"{regime.title}, {way}"] = dict(zip(map(str, COUNTS), found, strict=True))
            rows.append([regime.title, way, *map(mean_and_worst, found)])
    publish("reach", figures, pipe, rows)


def psnr(pipe: Any, regime: Regime, made: list[Batch], way: str, count: int) -> dict[str, Any]:
    """Of each video."""
    if not made:
        made.append(Batch(pipe, regime))
    return {"psnr": run(made[0], regime.listed(count), THIRD, true_point=WAYS[way]).tolist()}


if __name__ == "__main__":
    main()
