"""Experiment 27: the plan corrected while the video is made, by how far its estimates really went.

Over the distance that was foretold, that is a factor of the video's own. The rest of the plan is solved again with it
and with what is left of the tolerance, so that a video whose estimates move much gets more steps than others. Beside it
what there was to be had: the same steps in the mean, each given to the video that is worst by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bwcache.policies.planning import DRIFT, POWER, at, best, damages
from experiments.clean import USUAL, Batch, stepped
from experiments.common import load, publish

FITTED, PLACES = 8, range(64, 88)
COUNTS = (6, 7, 8, 9, 10, 11, 12, 14, 16, 20)
TOLERANCES = (0.02, 0.025, 0.03, 0.035, 0.045, 0.06)
GAINS = (0.5, 1.0)
LENGTH, REACH = 0.3, 1.5


@dataclass
class Video:
    """One video on its way.

    Attributes:
        listed: the steps that are to be computed, as things stand.
        past: (step, estimate), newest first.
        logs: what its estimates moved over what was foretold, as logarithms, one for each computed step but the first.
        spent: squared damage of the windows that are over.
        computed: how many steps were.
    """

    listed: list[int]
    past: list[tuple[int, Tensor]] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    spent: float = 0.0
    computed: int = 0


Again = Callable[[Video, int], list[int]]
"""Of a video and the step that was just computed in it: the steps that are to be computed from there on."""


def run(batch: Batch, listed: Sequence[int], again: Again) -> tuple[Tensor, Tensor, list[Video]]:
    """Make all videos, each with its own list; PSNR of each in dB, computed steps of each."""
    scheduler, latents, sigmas = batch.regime.scheduler(), batch.latents[0], batch.sigmas
    videos = [Video(list(listed)) for _ in range(len(latents))]
    texts = batch.texts
    for step, sigma in enumerate(sigmas[:-1]):
        due = [i for i, video in enumerate(videos) if step in video.listed]
        clean = torch.stack(
            [estimate(batch, video, step) if video.past else latents[i] for i, video in enumerate(videos)]
        )
        if due:
            batch.texts = tuple(text[due] for text in texts)
            made = batch.estimate(latents[due], sigma)
            for row, i in enumerate(due):
                clean[i] = made[row]
                note(batch, videos[i], step, made[row])
                videos[i].listed = again(videos[i], step)
        latents = stepped(scheduler, step, latents, clean, sigma)
    batch.texts = texts
    return batch.psnr(latents), torch.tensor([float(video.computed) for video in videos]), videos


def estimate(batch: Batch, video: Video, step: int) -> Tensor:
    """The estimate of a skipped step: a part of the way along the line."""
    (near, newest), *rest = video.past
    if not rest:
        return newest
    (far, older), sigmas = rest[0], batch.sigmas
    share = (sigmas[step] - sigmas[near]) / (sigmas[near] - sigmas[far])
    return newest + LENGTH * min(share, REACH) * (newest - older)


def note(batch: Batch, video: Video, step: int, made: Tensor) -> None:
    """A step was computed."""
    if video.past:
        before, held = video.past[0]
        foretold = abs(at(DRIFT, batch.sigmas[step]) - at(DRIFT, batch.sigmas[before])) ** POWER
        moved = float((made - held).abs().sum() / made.abs().sum())
        if foretold > 0 and moved > 0:
            video.logs.append(math.log(moved / foretold))
    video.past = [(step, made), *video.past[:1]]
    video.computed += 1


def planned(batch: Batch, tolerance: float, gain: float, usual: float) -> tuple[list[int], Again]:
    """The list without knowledge of the video, and how it goes on: with a factor to the power of `gain`."""
    windows = damages(tuple(batch.sigmas))
    listed = best(windows, tolerance**2)

    def again(video: Video, step: int) -> list[int]:
        factor = math.exp(2 * gain * (sum(video.logs) / len(video.logs) - usual)) if video.logs else 1.0
        before = [k for k in video.listed if k < step]
        if before:
            video.spent += windows[before[-1]][step - before[-1] - 1] * factor
        rest = [[damage * factor for damage in row] for row in windows[step:]]
        left = max(tolerance**2 - video.spent, tolerance**2 / 20)
        return [*before, *(step + k for k in best(rest, left))]

    return listed, again


def allotted(counts: Sequence[int], psnr: Tensor) -> list[tuple[float, float, float]]:
    """What there was: for each mean of computed steps mean and worst PSNR if each step goes to the worst video.

    Args:
        counts: ascending.
        psnr: of these many computed steps, `[len(counts), B]`.
    """
    best_so_far = torch.cummax(psnr, 0).values
    at_, found = [0] * psnr.shape[1], []
    while True:
        now = torch.stack([best_so_far[k, i] for i, k in enumerate(at_)])
        mean = sum(counts[k] for k in at_) / len(at_)
        found.append((mean, float(now.mean()), float(now.min())))
        open_ = [i for i, k in enumerate(at_) if k + 1 < len(counts)]
        if not open_:
            return found
        at_[min(open_, key=lambda i: float(now[i]))] += 1


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    found = {regime.title: raced(Batch(pipe, regime, PLACES, 0)) for regime in USUAL}
    publish("correct", {"fitted on": FITTED, "places": list(PLACES), "regimes": found}, pipe, table(found))


def raced(batch: Batch) -> dict[str, Any]:
    """All lists and all corrections in one regime."""
    windows, fixed, logs = damages(tuple(batch.sigmas)), [], []
    for count in COUNTS:
        psnr, _, videos = run(batch, best(windows, computed=count), lambda video, step: video.listed)
        fixed.append(psnr)
        if count == 10:
            logs = [sum(video.logs) / len(video.logs) for video in videos]
    usual = sum(logs[:FITTED]) / FITTED
    corrected = []
    for gain in GAINS:
        for tolerance in TOLERANCES:
            psnr, computed, _ = run(batch, *planned(batch, tolerance, gain, usual))
            corrected.append([gain, tolerance, computed.tolist(), psnr.tolist()])
    every = torch.stack(fixed)
    return {
        "counts": COUNTS, "fixed": every.tolist(), "usual": usual, "logs": logs, "corrected": corrected,
        "allotted": allotted(COUNTS, every[:, FITTED:]),
    }  # fmt: skip


def table(found: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """At the tolerances of which a correction computes between 8 and 12 steps: it, and the others at the same work."""
    rows: list[list[Any]] = [["regime", "gain", "computed", "corrected", "the plan", "allotted"]]
    for name, one in found.items():
        fixed = torch.tensor(one["fixed"])[:, FITTED:]
        plain = [fixed.mean(1).tolist(), fixed.min(1).values.tolist()]
        allotted_ = list(zip(*one["allotted"], strict=True))
        for gain, _, computed, psnr in one["corrected"]:
            work, own = sum(computed[FITTED:]) / len(computed[FITTED:]), psnr[FITTED:]
            if 8 <= work <= 12:
                there = [float(np.interp(work, one["counts"], part)) for part in plain]
                ideal = [float(np.interp(work, allotted_[0], part)) for part in allotted_[1:]]
                cells = [[sum(own) / len(own), min(own)], there, ideal]
                rows.append([name, gain, f"{work:.1f}", *(f"{mean:.1f} / {worst:.1f}" for mean, worst in cells)])
    return rows


if __name__ == "__main__":
    main()
