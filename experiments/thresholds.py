"""Experiment 3: the threshold against reuse, quality and time, on 52 videos; and 6: against fewer steps."""

from __future__ import annotations

from bwcache.study import FewerSteps, Result, speedup_at
from bwcache.study.results import speedup_interval
from experiments.common import load, picture, policies, publish, result_rows, study

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
FEWER = (8, 10, 12, 13, 15, 17, 20, 24)
VIDEOS = 52


def main() -> None:
    """Runs and writes both."""
    pipe = load()
    methods = [
        *policies(({"threshold": t} for t in THRESHOLDS), ("threshold",)),
        *[FewerSteps(steps) for steps in FEWER],
    ]
    _, rows = study("thresholds", methods, VIDEOS, pipe=pipe)
    own = [row for row in rows if row.family == "BWCache"]
    fewer = [row for row in rows if row.family == "fewer steps"]
    figures = {"videos": VIDEOS, "rows": [row.to_json() for row in rows]}
    publish("thresholds", figures, pipe, result_rows(own, lambda row: f"threshold {row.settings['threshold']:g}"))
    levels = [["PSNR", "BWCache", "fewer steps"]]
    for level in (25, 30, 35, 40):
        levels.append([f"{level} dB", reached(own, level), reached(fewer, level)])
    publish("fewer_steps", figures, pipe, levels)
    draw(own, fewer)


def reached(rows: list[Result], level: float) -> str:
    """The speedup of the blocks' work at a PSNR, with its interval."""
    value, sign = speedup_at(rows, level)
    if value is None:
        return "not reached"
    between = speedup_interval(rows, level)
    return f"{sign}{value:.2f}x" + (f" ({between[0]:.2f} to {between[1]:.2f})" if between else "")


def draw(own: list[Result], fewer: list[Result]) -> None:
    """Quality against work."""
    with picture("thresholds", 2) as (left, right):
        for axes, measure, of in ((left, "mean", Result.mean), (right, "worst", Result.worst)):
            for rows, label, mark in ((own, "BWCache, replay", "o-"), (fewer, "fewer steps", "s--")):
                axes.plot([row.compute_speedup for row in rows], [of(row, "psnr") for row in rows], mark, label=label)
            axes.set_xlabel("block work, uncached / done")
            axes.set_ylabel(f"PSNR, {measure} of the videos (dB)")
            axes.legend(frameon=False)


if __name__ == "__main__":
    main()
