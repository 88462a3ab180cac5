"""Experiment 14: replay, line, curve or damped line, at equal computed steps.

The steps are fixed, so that nothing differs but how the others are made: regular intervals after a warm-up, and the
steps that a search with the truth found (`benchmarks/oracle.py`), each under two shifts.
"""

from __future__ import annotations

from typing import Any

import diffusers

import bwcache
from bwcache.study import Result, UnderPolicy
from experiments.common import load, picture, publish, study

VIDEOS, STEPS = 12, 30
SHIFTS = (1.0, 3.0)
PREDICTORS = (bwcache.Last(), bwcache.Linear(), bwcache.Taylor(2), bwcache.Damped())
SCHEDULES = {
    "every 2nd after 5": (*range(5), *range(5, 30, 2)),
    "every 3rd after 5": (*range(5), *range(6, 30, 3)),
    "every 4th after 5": (*range(5), *range(7, 30, 4)),
    "8 steps, searched": (0, 1, 2, 4, 6, 13, 21, 26),
}


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    own = pipe.scheduler
    methods = [
        UnderPolicy(bwcache.StepList(steps, predictor)) for steps in SCHEDULES.values() for predictor in PREDICTORS
    ]
    found: dict[float, list[Result]] = {}
    for shift in SHIFTS:
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        _, found[shift] = study(f"prediction-{shift:g}", methods, VIDEOS, STEPS, pipe)
    pipe.scheduler = own
    rows: list[list[Any]] = [["steps computed", "number", "shift", *map(named, PREDICTORS)]]
    for name, steps in SCHEDULES.items():
        for shift in SHIFTS:
            rows.append([name, len(steps), f"{shift:g}", *(cell(found[shift], steps, one) for one in PREDICTORS)])
    figures = {
        "videos": VIDEOS,
        "rows": {f"{shift:g}": [row.to_json() for row in some] for shift, some in found.items()},
    }
    publish("prediction", figures, pipe, rows)
    draw(found)


def named(predictor: bwcache.Predictor) -> str:
    """As a column's head."""
    return repr(predictor)


def result(rows: list[Result], steps: tuple[int, ...], predictor: bwcache.Predictor) -> Result:
    """The row of a schedule under a predictor."""
    wanted = UnderPolicy(bwcache.StepList(steps, predictor)).settings()
    return next(row for row in rows if row.settings == wanted)


def cell(rows: list[Result], steps: tuple[int, ...], predictor: bwcache.Predictor) -> str:
    """Mean and worst PSNR."""
    row = result(rows, steps, predictor)
    return f"{row.mean('psnr') or 100:.1f} ({row.worst('psnr') or 100:.1f})"


def draw(found: dict[float, list[Result]]) -> None:
    """Mean PSNR of every schedule, one line for each predictor."""
    with picture("prediction", 2, (11, 4.2)) as both:
        for axes, (shift, rows) in zip(both, found.items(), strict=True):
            for predictor in PREDICTORS:
                values = [result(rows, steps, predictor).mean("psnr") for steps in SCHEDULES.values()]
                axes.plot(range(len(SCHEDULES)), values, "o-", label=named(predictor))
            axes.set_xticks(
                range(len(SCHEDULES)), [name.replace(" after", "\nafter") for name in SCHEDULES], fontsize=8
            )
            axes.set_title(f"shift {shift:g}")
            axes.set_ylabel("mean PSNR, dB")
            axes.legend(fontsize=8)


if __name__ == "__main__":
    main()
