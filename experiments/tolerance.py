"""Experiment 13: is one tolerance one quality? Adaptive at fixed tolerances beside BWCache at fixed thresholds.

The same videos with four schedules (three solvers, and Euler with a shift) in 20, 30 and 50 steps. A number that means
the same everywhere gives the same PSNR everywhere: what is looked at is how far the means lie apart.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

import bwcache
from bwcache.study import Cell, Result, UnderPolicy, results
from experiments.common import captions, load, picture, publish, study
from experiments.schedulers import solvers

VIDEOS = 8
STEPS = (20, 30, 50)
SCHEDULES = {
    "Euler": ("Euler", 1.0),
    "Euler, shift 3": ("Euler", 3.0),
    "UniPC": ("UniPC", 1.0),
    "DPM++ 2M": ("DPM++ 2M", 1.0),
}
TOLERANCES, THRESHOLDS = (0.02, 0.04), (0.10, 0.15)


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    own = pipe.scheduler
    methods = [UnderPolicy(bwcache.Adaptive(value), ("tolerance",)) for value in TOLERANCES]
    methods += [UnderPolicy(bwcache.BWCache(value), ("threshold",)) for value in THRESHOLDS]
    found: dict[tuple[str, int], list[Cell]] = {}
    for name, (solver, shift) in SCHEDULES.items():
        for steps in STEPS:
            pipe.scheduler = solvers()[solver](shift)
            folder = f"tolerance-{name.replace(' ', '').replace(',', '-').replace('+', 'p').lower()}-{steps}"
            found[name, steps], _ = study(folder, methods, VIDEOS, steps, pipe)
    pipe.scheduler = own
    ranked = {place: {row.label: row for row in results(cells)} for place, cells in found.items()}
    labels = list(next(iter(ranked.values())))
    spreads = {label: spread([rows[label] for rows in ranked.values()]) for label in labels}
    halves = {label: by_pace(label, found) for label in labels}
    figures = {
        "videos": VIDEOS,
        "places": {
            f"{name}, {steps}": [row.to_json() for row in rows.values()] for (name, steps), rows in ranked.items()
        },
        "spreads": spreads,
        "halves": halves,
    }
    publish("tolerance", figures, pipe, summary(spreads, halves))
    publish("tolerance_places", {"see": "tolerance.json"}, pipe, by_place(ranked, labels))
    draw(ranked, labels)


def spread(rows: list[Result]) -> dict[str, float]:
    """Of the mean PSNRs at all places: mean, standard deviation, the ends; and the least single video of all."""
    means = [decibels(row.mean("psnr")) for row in rows]
    return {
        "mean": statistics.fmean(means),
        "deviation": statistics.pstdev(means),
        "min": min(means),
        "max": max(means),
        "worst": min(decibels(row.worst("psnr")) for row in rows),
        "saved": statistics.fmean(row.saved or 0.0 for row in rows),
    }


def decibels(value: float | None) -> float:
    """PSNR; videos without any difference count as 100 dB."""
    return 100.0 if value is None else min(value, 100.0)


def by_pace(label: str, found: dict[tuple[str, int], list[Cell]]) -> dict[str, float]:
    """Mean PSNR over all places of the calm videos, and of the lively ones."""
    lively = {caption.text for caption in captions(VIDEOS) if caption.speed == "fast"}
    cells = [cell for some in found.values() for cell in some]
    halves = {"calm": [c for c in cells if c.prompt not in lively], "lively": [c for c in cells if c.prompt in lively]}
    picked = {name: [row for row in results(some) if row.label == label] for name, some in halves.items()}
    return {name: decibels(rows[0].mean("psnr")) for name, rows in picked.items()}


def summary(spreads: dict[str, dict[str, float]], halves: dict[str, dict[str, float]]) -> list[list[Any]]:
    """One row per setting."""
    rows: list[list[Any]] = [
        ["setting", "block work saved", "PSNR", "lowest place", "highest", "deviation", "calm", "lively", "worst video"]
    ]
    for label, of in spreads.items():
        half = halves[label]
        saved = f"{of['saved']:.0%}"
        rows.append(
            [label, saved, of["mean"], of["min"], of["max"], of["deviation"], half["calm"], half["lively"], of["worst"]]
        )
    return rows


def by_place(ranked: dict[tuple[str, int], dict[str, Result]], labels: list[str]) -> list[list[Any]]:
    """PSNR and work saved at each place."""
    rows: list[list[Any]] = [["schedule", "steps", *labels]]
    for (name, steps), found in ranked.items():
        shown = [f"{decibels(found[label].mean('psnr')):.1f} ({found[label].saved or 0:.0%})" for label in labels]
        rows.append([name, steps, *shown])
    return rows


def draw(ranked: dict[tuple[str, int], dict[str, Result]], labels: list[str]) -> None:
    """Every place of every setting."""
    with picture("tolerance", 2, (11, 4.4)) as both:
        for axes, kind in zip(both, ("Adaptive", "BWCache"), strict=True):
            for label in (one for one in labels if one.startswith(kind)):
                points = [(row.saved or 0.0, decibels(row.mean("psnr"))) for row in (r[label] for r in ranked.values())]
                saved, psnr = np.array(points).T
                axes.plot(100 * saved, psnr, "o", ms=5, label=label)
            axes.set_xlabel("block work saved, %")
            axes.set_ylabel("mean PSNR, dB")
            axes.set_ylim(15, 60)
            axes.set_xlim(0, 90)
            axes.legend(fontsize=8)


if __name__ == "__main__":
    main()
