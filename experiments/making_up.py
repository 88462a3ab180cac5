"""Experiment 31: does it pay that early windows make up for what the one before them missed? On videos new to all.

Both models, four regimes, 24 captions on which nothing was chosen, in batches of eight; each plan with and without.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import numpy as np
import torch

import bwcache
from benchmarks import common
from benchmarks.race.race import MODELS, REGIMES, named_scheduler, replaced
from experiments.common import kept, publish

PLACES, BATCH, BROKEN = range(40, 64), 8, 28.0
TOLERANCES = {"shapes": (0.02, 0.025, 0.03, 0.045), "joint": (0.02, 0.03, 0.045)}
TURNS = ("euler-1-30", "euler-3-30", "euler-5-50", "unipc-8-50")


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    torch.set_num_threads(1)
    rows: list[list[Any]] = [["model, regime", "computed", "without", "making up", "median difference"]]
    figures: dict[str, Any] = {}
    for model, tolerances in TOLERANCES.items():
        pipe = MODELS[model].load()
        for regime in TURNS:
            pipe.scheduler = replaced(pipe.scheduler, *named_scheduler(REGIMES[regime].scheduler))
            for tolerance in tolerances:
                two = [
                    kept(
                        f"making_up-{model}-{regime}",
                        pipe,
                        [tolerance, up],
                        partial(made, pipe, model, regime, tolerance, up),
                    )
                    for up in (False, True)
                ]
                figures[f"{model} {regime} {tolerance}"] = dict(zip(("without", "making up"), two, strict=True))
                apart = statistics.median(b - a for a, b in zip(two[0]["psnr"], two[1]["psnr"], strict=True))
                name = f"{model}, {REGIMES[regime].title}"
                rows.append([name, two[0]["computed"], *map(level, two), f"{apart:+.1f}"])
    publish("making_up", figures, pipe, rows)


def made(pipe: Any, model: str, regime: str, tolerance: float, makes_up: bool) -> dict[str, Any]:
    """The PSNR of each video under a plan, and how many steps it computed."""
    found: list[float] = []
    for first in range(PLACES.start, PLACES.stop, BATCH):
        places = range(first, min(first + BATCH, PLACES.stop))
        full = frames(pipe, model, REGIMES[regime].steps, places)
        with bwcache.attach(pipe, bwcache.Planned(tolerance, makes_up=makes_up)) as session:
            own = frames(pipe, model, REGIMES[regime].steps, places)
            computed = len({event.step for event in session.trace.events if event.action == "compute"})
        found += psnr(full, own)
    return {"computed": computed, "psnr": found}


def frames(pipe: Any, model: str, steps: int, places: range) -> np.ndarray:
    """The videos of these captions, each from its own noise."""
    asked = [common.request(common.captions(place + 1)[place], steps, place) for place in places]
    one = asked[0]
    made = pipe(
        [each.prompt for each in asked],
        generator=[torch.Generator().manual_seed(place) for place in places],
        height=one.height, width=one.width, num_frames=MODELS[model].frames,
        num_inference_steps=one.steps, guidance_scale=one.guidance_scale, output_type="np",
    )  # fmt: skip
    return np.asarray(made.frames, dtype=np.float64)


def psnr(full: np.ndarray, own: np.ndarray) -> list[float]:
    """Of each video, over all of it, dB."""
    return [float(-10 * np.log10(np.mean((a - b) ** 2))) for a, b in zip(full, own, strict=True)]


def level(found: dict[str, Any]) -> str:
    """Mean and worst, and how many videos broke."""
    values = found["psnr"]
    return f"{statistics.mean(values):.1f} / {min(values):.1f} ({sum(one < BROKEN for one in values)})"


if __name__ == "__main__":
    main()
