"""Experiment 25: planned lists on a model that the curves were not measured on: single images.

Beside `Planned`'s list stands one that is planned from the model's own uncached runs, as `bwcache tune` does it, of
other images, and one found by a search with the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from experiments.clean import HELD, THIRD, Batch, Regime, mean_and_worst, own_list, run
from experiments.common import kept, publish
from training.models import IMAGE_FRAMES, load_image_model

COMPUTED = (8,)
REGIMES = (Regime(30, 1.0),)
OTHERS = range(64, 72)
"""Places of the captions that lists are planned from."""


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load_image_model()
    header = ["schedule", "computed", "held", "a third", "own list, held", "own list, a third", "searched, a third"]
    rows: list[list[Any]] = [[*header, "fewer steps"]]
    figures = {}
    for regime in REGIMES:
        found = kept("images_planned", pipe, [regime.title], partial(measured, pipe, regime))
        figures[regime.title] = found
        for computed in COMPUTED:
            rows.append([regime.title, computed, *(mean_and_worst(one) for one in found[str(computed)]["psnr"])])
    publish("images_planned", figures, pipe, rows)


def measured(pipe: Any, regime: Regime) -> dict[str, Any]:
    """Lists and the PSNR of each image, by the number of computed steps."""
    batch, others = (Batch(pipe, regime, frames=IMAGE_FRAMES), Batch(pipe, regime, OTHERS, 0, IMAGE_FRAMES))
    found = {}
    for computed in COMPUTED:
        listed, planned = regime.listed(computed), own_list(others.recordings(), computed)
        searched = improved(listed, regime.steps, lambda steps: float(run(batch, steps, THIRD).mean()))
        ways = [(listed, HELD), (listed, THIRD), (planned, HELD), (planned, THIRD), (searched, THIRD)]
        psnr = [run(batch, steps, fill).tolist() for steps, fill in ways]
        fewer = Batch(pipe, Regime(computed, regime.shift), frames=IMAGE_FRAMES)
        psnr.append(batch.psnr(fewer.latents[-1]).tolist())
        found[str(computed)] = {"listed": listed, "planned": planned, "searched": searched, "psnr": psnr}
    return found


def improved(listed: Sequence[int], total: int, worth: Callable[[list[int]], float]) -> list[int]:
    """A list in which no step can be moved by one or two for the better, but the first."""
    best, most = list(listed), worth(list(listed))
    place = since = 0
    while since < len(best) - 1:
        place = place % (len(best) - 1) + 1
        since += 1
        for far in (-2, -1, 1, 2):
            moved = sorted({*best[:place], best[place] + far, *best[place + 1 :]})
            if len(moved) == len(best) and moved[1] > 0 and moved[-1] < total and (found := worth(moved)) > most:
                best, most, since = moved, found, 0
    return best


if __name__ == "__main__":
    main()
