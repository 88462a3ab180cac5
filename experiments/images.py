"""Experiment 11, text to image: the shapes model fine-tuned on single frames, its curve, and what reuse costs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from tqdm import tqdm

import bwcache
from bwcache import shapes
from bwcache.study import FewerSteps, UnderPolicy
from experiments.common import (
    captions,
    exact_trace,
    indicator,
    load,
    picture,
    policies,
    publish,
    request,
    result_rows,
    study,
)
from training.models import IMAGE_FRAMES, load_image_model

VIDEOS = 16
THRESHOLDS = (0.05, 0.10, 0.15, 0.20)
TOLERANCES = (0.005, 0.01, 0.02, 0.04, 0.08)
FEWER = (10, 15, 20, 24)


def main() -> None:
    """Runs and writes it."""
    pipe = load_image_model()
    pipe.set_progress_bar_config(disable=True)
    found = {}
    pictures = []
    for name, frames, made_by in (("video", shapes.FRAMES, load()), ("image", IMAGE_FRAMES, pipe)):
        curves = []
        for seed, caption in enumerate(tqdm(captions(VIDEOS), name)):
            asked = dataclasses.replace(request(caption.text, seed=seed), frames=frames)
            made, trace = exact_trace(made_by, asked)
            curves.append(indicator(trace))
            if frames == 1:
                pictures.append(made.frames[0])
        found[name] = np.array(curves)
    _, found_rows = study("images", methods(), VIDEOS, pipe=pipe, frames=IMAGE_FRAMES)
    quantiles = {name: np.nanquantile(runs[:, 1:], (0.1, 0.5, 0.9), axis=0).tolist() for name, runs in found.items()}
    figures = {"videos": VIDEOS, "curves": quantiles, "rows": [row.to_json() for row in found_rows]}
    publish("images", figures, pipe, result_rows(found_rows))
    draw(found, pictures)


def methods() -> list[Any]:
    """BWCache, Adaptive and fewer steps."""
    return [
        *policies(({"threshold": t} for t in THRESHOLDS), ("threshold",)),
        *[UnderPolicy(bwcache.Adaptive(tolerance=t), ("tolerance",)) for t in TOLERANCES],
        *[FewerSteps(steps) for steps in FEWER],
    ]


def draw(found: dict[str, np.ndarray], pictures: list[Any]) -> None:
    """Both curves, and the first pictures."""
    with picture("images", 2, (11, 4)) as (left, right):
        for name, runs in found.items():
            low, middle, high = np.nanquantile(runs[:, 1:], (0.1, 0.5, 0.9), axis=0)
            steps = np.arange(1, runs.shape[1])
            (line,) = left.plot(steps, middle, label=name)
            left.fill_between(steps, low, high, alpha=0.2, color=line.get_color(), lw=0)
        left.set_xlabel("denoising step")
        left.set_ylabel("indicator (median, 10 to 90 %)")
        left.set_ylim(bottom=0)
        left.legend(frameon=False)
        sheet = np.concatenate([np.concatenate(pictures[i : i + 8], axis=1) for i in range(0, 16, 8)])
        right.imshow(np.clip(sheet, 0, 1), interpolation="nearest")
        right.set_axis_off()
        right.set_title("what it makes of the first 16 captions", fontsize=10)


if __name__ == "__main__":
    main()
