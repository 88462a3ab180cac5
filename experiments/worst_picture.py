"""The worst videos of the table of the leaders under the grade balanced, each below the uncached one: a picture.

They are looked up in its results (Euler, shift 5, 50 steps): two of the model in the box, two of joint attention.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from PIL import Image

import bwcache
from benchmarks.lead.__main__ import RESULTS
from benchmarks.race.race import MODELS, REGIMES, named_scheduler, replaced
from bwcache.policies.grades import GRADES
from experiments.common import IMAGES
from experiments.making_up import frames

REGIME, GRADE = "euler-5-50", "balanced"
VIDEOS, SHOWN, LARGER = 2, 8, 3
"""Of each model; frames of each; and how many pixels one becomes, each way."""


@torch.no_grad()
def main() -> None:
    """Make it."""
    torch.set_num_threads(1)
    strips = [strip for model in ("shapes", "joint") for strip in pairs(model)]
    pixels = (np.concatenate(strips).clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    larger = (picture.width * LARGER, picture.height * LARGER)
    picture.resize(larger, Image.Resampling.NEAREST).save(IMAGES / "worst.png", optimize=True)


def pairs(model: str) -> list[np.ndarray]:
    """Of each of the worst videos of a model, frames side by side: uncached, and under the grade."""
    pipe = MODELS[model].load()
    pipe.scheduler = replaced(pipe.scheduler, *named_scheduler(REGIMES[REGIME].scheduler))
    strips = []
    for place in worst(model):
        for policy in (None, GRADE):
            strips.append(strip(pipe, model, place, policy))
    return strips


def strip(pipe: Any, model: str, place: int, grade: str | None) -> np.ndarray:
    """Frames of one video side by side, `[H, frames * W, 3]`."""
    if grade is None:
        made = frames(pipe, model, REGIMES[REGIME].steps, range(place, place + 1))[0]
    else:
        with bwcache.attach(pipe, grade):
            made = frames(pipe, model, REGIMES[REGIME].steps, range(place, place + 1))[0]
    chosen = np.linspace(0, len(made) - 1, SHOWN).round().astype(int)
    return np.concatenate([made[k] for k in chosen], axis=1)


def worst(model: str) -> list[int]:
    """The places of the captions of a model's worst videos, the worst first."""
    races = json.loads(RESULTS.read_text(encoding="utf-8"))["races"]
    tolerance = GRADES[GRADE].policy.tolerance
    rows = races[model][REGIME]["final"]["Planned"]
    row = next(one for one in rows if one["settings"]["tolerance"] == tolerance)
    return [video[0] for video in sorted(row["videos"], key=lambda video: video[2])[:VIDEOS]]


if __name__ == "__main__":
    main()
