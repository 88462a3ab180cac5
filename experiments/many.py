"""Experiment 16: how many videos break? Forty-eight more, on none of which any method's constants were chosen."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from tqdm import tqdm

import bwcache
from bwcache.measure.call import call
from bwcache.measure.quality import psnr
from bwcache.study.results import CEILING
from experiments.common import load, publish, request, videos

VIDEOS, FIRST, STEPS = 48, 40, 30
BROKEN = 30.0
"""PSNR in dB below which a video is counted as broken."""

SCHEDULE = (0, 1, 2, 4, 7, 12, 18, 23, 27)
"""Nine steps, laid out like those that the oracle found (`left`)."""

FIELD: dict[str, bwcache.Policy[Any]] = {
    "Adaptive, tolerance .02": bwcache.Adaptive(0.02),
    "Adaptive, tolerance .03": bwcache.Adaptive(0.03),
    "one schedule for all, `Damped()`": bwcache.StepList(SCHEDULE, bwcache.Damped()),
    "fixed interval of 6, the first 6 and last 2 steps computed": bwcache.FixedInterval(6, 6, 2),
    "BWCache as published, threshold .15": bwcache.BWCache(0.15),
}


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    work: dict[str, list[float]] = {name: [] for name in FIELD}
    decibels: dict[str, list[float]] = {name: [] for name in FIELD}
    for video in tqdm(videos(VIDEOS, FIRST), "many"):
        asked = request(video.prompt, STEPS, video.seed)
        truth = call(pipe, asked).frames
        for name, policy in FIELD.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", category=bwcache.NeverReusedWarning)
                with bwcache.attach(pipe, policy) as session:
                    made = call(pipe, asked).frames
            work[name].append(1 - session.trace.reuse_rate)
            decibels[name].append(min(psnr(truth, made), CEILING))
    figures = {"videos": VIDEOS, "first": FIRST, "schedule": SCHEDULE, "work": work, "psnr": decibels}
    publish("many", figures, pipe, table(work, decibels))


def table(work: dict[str, list[float]], decibels: dict[str, list[float]]) -> list[list[Any]]:
    """One row per method, the one that did least work first."""
    head = ["method", "blocks' work, uncached / done", "PSNR, mean", "median", "worst", f"videos below {BROKEN:g} dB"]
    body = []
    for name in sorted(FIELD, key=lambda name: math.fsum(work[name])):
        found = np.array(decibels[name])
        figures = [float(found.mean()), float(np.median(found)), float(found.min())]
        body.append([name, f"{1 / np.mean(work[name]):.2f}x", *figures, f"{(found < BROKEN).sum()} of {len(found)}"])
    return [head, *body]


if __name__ == "__main__":
    main()
