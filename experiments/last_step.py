"""Experiment 32: is the last step needed? The three grades where it was not looked at before, with it and without.

Both models, shifts of 3, 5 and 8, 20, 30 and 50 steps, eight captions on which nothing was chosen. A list
of as many steps stands beside each grade's: the best one if all of the last window's error were seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

import bwcache
from benchmarks.race.race import MODELS, named_scheduler, replaced
from bwcache.policies import planned, planning
from bwcache.policies.grades import GRADES
from experiments.common import kept, publish
from experiments.making_up import frames, psnr

PLACES, BATCH = range(72, 80), 8
COLUMNS = ("with the last step", "as planned", "median difference")
REGIMES = [
    (f"Euler, shift {shift}, {steps} steps", f"FlowMatchEulerDiscrete:shift={shift}", steps)
    for shift, steps in ((5, 50), (8, 50), (5, 30), (3, 20), (5, 20))
]
"""One that the table of the leaders has, and four that it has not."""


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    torch.set_num_threads(1)
    rows: list[list[Any]] = [["model, regime", "grade", "computed", *COLUMNS]]
    figures: dict[str, Any] = {}
    pipes = {model: MODELS[model].load() for model in ("shapes", "joint")}
    for title, scheduler, steps in REGIMES:
        for model, pipe in pipes.items():
            pipe.scheduler = replaced(pipe.scheduler, *named_scheduler(scheduler))
            found = kept(f"last_step-{model}-{place(title)}", pipe, [title], partial(regime, pipe, model, steps))
            figures[f"{model}, {title}"] = found
            for grade, own in found.items():
                before, now = own["with"]["psnr"], own["planned"]["psnr"]
                apart = statistics.median(b - a for a, b in zip(before, now, strict=True))
                steps_computed = len(own["planned"]["steps"])
                same = own["with"]["steps"] == own["planned"]["steps"]
                last = ["the same list", ""] if same else [level(now), f"{apart:+.1f}"]
                rows.append([f"{model}, {title}", grade, steps_computed, level(before), *last])
    publish("last_step", figures, pipes["shapes"], rows)


def place(title: str) -> str:
    """A folder's name."""
    return title.lower().replace(", ", "-").replace(" ", "-")


def regime(pipe: Any, model: str, steps: int) -> dict[str, Any]:
    """What each grade's list comes to, and the best one of as many steps if all of the last error were seen."""
    found: dict[str, Any] = {}
    full = [frames(pipe, model, steps, places) for places in batches()]
    for grade, one in GRADES.items():
        now = made(pipe, model, steps, full, one.policy)
        with all_seen_at_the_end():
            before = made(pipe, model, steps, full, bwcache.Planned(computed=len(now["steps"])))
        found[grade] = {"with": before, "planned": now}
    return found


def made(pipe: Any, model: str, steps: int, full: list[np.ndarray], policy: bwcache.Policy[Any]) -> dict[str, Any]:
    """The PSNR of each video under a plan, and the steps that it computed."""
    found: list[float] = []
    computed: set[int] = set()
    for places, exact in zip(batches(), full, strict=True):
        with bwcache.attach(pipe, policy) as session:
            own = frames(pipe, model, steps, places)
        computed |= {event.step for event in session.trace.events if event.action == "compute"}
        found += psnr(exact, own)
    return {"steps": sorted(computed), "psnr": found}


@contextmanager
def all_seen_at_the_end() -> Iterator[None]:
    """Plans are made, while this is open, as if all of an error of the last window were seen in the frames."""
    usual, planning.SEEN_AT_THE_END = planning.SEEN_AT_THE_END, 1.0
    forget()
    try:
        yield
    finally:
        planning.SEEN_AT_THE_END = usual
        forget()


def forget() -> None:
    """Plans are made anew."""
    planning.damages.cache_clear()
    planned.plan.cache_clear()


def batches() -> list[range]:
    """The places of the captions, a batch after another."""
    return [range(first, min(first + BATCH, PLACES.stop)) for first in range(PLACES.start, PLACES.stop, BATCH)]


def level(values: list[float]) -> str:
    """Mean and worst."""
    return f"{statistics.mean(values):.1f} / {min(values):.1f}"


if __name__ == "__main__":
    main()
