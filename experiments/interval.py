"""Experiment 4: the reuse interval (5, 10, 15, 20 %), calm against lively videos, and drift over a window."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from bwcache.measure.call import call
from bwcache.study import Result, results
from experiments.common import (
    beside,
    captions,
    load,
    picture,
    policies,
    publish,
    recording,
    request,
    result_rows,
    study,
)

INTERVALS = (0.05, 0.10, 0.15, 0.20)
VIDEOS, DRIFTING, REACH = 32, 8, 6


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    grid = [{"reuse_interval": r} for r in INTERVALS]
    cells, rows = study("interval", policies(grid, ("reuse_interval",)), VIDEOS, pipe=pipe)
    lively = {caption.text for caption in captions(VIDEOS) if caption.speed == "fast"}
    halves = {
        "lively": results([cell for cell in cells if cell.prompt in lively]),
        "calm": results([cell for cell in cells if cell.prompt not in lively]),
    }
    drifts = [drift(pipe, caption.text, seed) for seed, caption in enumerate(captions(DRIFTING))]
    figures = {
        "videos": VIDEOS,
        "lively": len(lively),
        "rows": [row.to_json() for row in rows],
        "halves": {name: [row.to_json() for row in some] for name, some in halves.items()},
        "drift": np.median(drifts, axis=0).tolist(),
    }
    body: list[list[Any]] = [["interval", "videos", *result_rows(rows)[0][1:]]]
    for name, some in {"all": rows, **halves}.items():
        body += [[label(row), name, *line[1:]] for row, line in zip(some, result_rows(some)[1:], strict=True)]
    publish("interval", figures, pipe, body)
    draw(halves, np.median(drifts, axis=0))


def label(row: Result) -> str:
    """The interval in per cent."""
    return f"{row.settings['reuse_interval']:.0%}"


def drift(pipe: Any, prompt: str, seed: int) -> list[list[float]]:
    """How far what is replayed is from what would be computed, for each age and each third of the run.

    Returns:
        Relative L1 (dimensionless), `[3, REACH]`: begin, middle and end of the run; age 1 to REACH steps.
    """
    with recording(pipe) as record:
        call(pipe, request(prompt, seed=seed))
    last = record.last(0)
    thirds: list[list[float]] = []
    for third in range(3):
        ends = range(len(last) * third // 3, len(last) * (third + 1) // 3)
        ages = []
        for age in range(1, REACH + 1):
            pairs = [(last[t], last[t - age]) for t in ends if t >= age]
            ages.append(statistics.fmean(float((new - old).abs().sum() / new.abs().sum()) for new, old in pairs))
        thirds.append(ages)
    return thirds


def draw(halves: dict[str, list[Result]], drifts: np.ndarray) -> None:
    """Quality of both halves, and the drift."""
    with picture("interval", 2) as (left, right):
        for name, some in halves.items():
            speeds, psnrs = [row.compute_speedup for row in some], [row.mean("psnr") for row in some]
            left.plot(speeds, psnrs, "o-", label=name)
            for row, speed, psnr in zip(some, speeds, psnrs, strict=True):
                beside(left, label(row), speed, psnr)
        left.set_xlabel("block work, uncached / done")
        left.set_ylabel("PSNR, mean of the videos (dB)")
        left.legend(frameon=False)
        for name, ages in zip(("first third", "middle third", "last third"), drifts, strict=True):
            right.plot(range(1, REACH + 1), ages, "o-", label=f"{name} of the run")
        right.set_xlabel("age of what is replayed (steps)")
        right.set_ylabel("relative L1 to what would be computed")
        right.legend(frameon=False)


if __name__ == "__main__":
    main()
