"""Experiment 15: how far do the methods get, and how much is left? On the videos on which the oracle searched.

Every method runs along its own ladder with a short and a long warm-up, as in `bwcache bench`; the oracle's schedules
are those that `python -m benchmarks.oracle` found, one for all videos or one for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bwcache.study import Cell, Folder, Result, results
from bwcache.study.peers import Guards, calibrated
from bwcache.study.peers.ladders import Terms, ladders
from bwcache.study.results import CEILING, speedup_at, speedup_interval
from bwcache.study.study import identity
from experiments.common import ROOT, RUNS, load, picture, publish, request, study, videos

VIDEOS, FRESH, STEPS = 12, 6, 30
UNSEEN = ("adaptive", "fixed", "magcache", "seacache", "taylorseer-lite")
"""Who runs again on `FRESH` more videos, on none of which anything was chosen."""

METHODS = (
    "adaptive", "bwcache", "bwcache-linear", "fixed", "fewer-steps", "magcache", "seacache", "taylorseer-lite",
)  # fmt: skip
GUARDS = (Guards(2, 2), Guards(6, 2))
LEVELS = (30.0, 35.0, 40.0)
ORACLE = ROOT.parent / "benchmarks" / "results" / "oracle.json"


def main() -> None:
    """Runs what is missing and writes it."""
    pipe = load()
    folder = Folder(RUNS / "left", identity(pipe, request(steps=STEPS), "shapes"))
    ratios = calibrated(
        folder.path, pipe, request("a large cyan ring moving left slowly over a plain background", STEPS, VIDEOS)
    )
    field = ladders(METHODS, [Terms(STEPS, guards, pipe.scheduler, ratios) for guards in GUARDS])
    cells, rows = study("left", field, VIDEOS, STEPS, pipe)
    others = ladders(UNSEEN, [Terms(STEPS, guards, pipe.scheduler, ratios) for guards in GUARDS])
    _, again = study("left", others, FRESH, STEPS, pipe, first=VIDEOS)
    found = json.loads(ORACLE.read_text(encoding="utf-8"))["schedules"] if ORACLE.exists() else {}
    families, unseen = by_family(rows), by_family(again)
    figures = {
        "videos": [[video.prompt, video.seed] for video in videos(VIDEOS)],
        "speedup_at": {
            name: {f"{level:g}": reached(some, level) for level in LEVELS} for name, some in families.items()
        },
        "rows": [row.to_json() for row in rows],
    }
    publish("left", figures, pipe, speeds(families))
    publish("left_unseen", {"rows": [row.to_json() for row in again]}, pipe, speeds(unseen))
    publish("left_oracle", {"see": "benchmarks/results/oracle.json"}, pipe, beside_the_oracle(cells, families, found))
    draw(families, found)


def by_family(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """Method -> its settings."""
    return {name: [row for row in rows if row.family == name] for name in dict.fromkeys(row.family for row in rows)}


def reached(rows: Sequence[Result], level: float) -> dict[str, Any]:
    """Blocks' work of the uncached run over what was done, at that mean PSNR; and with the worst video at it."""
    speed, bound = speedup_at(rows, level)
    return {"speedup": speed, "bound": bound, "interval": speedup_interval(rows, level), "worst": by_worst(rows, level)}


def by_worst(rows: Sequence[Result], level: float) -> float | None:
    """The fastest setting in which even the worst video has that PSNR."""
    fine = [row.compute_speedup or 1.0 for row in rows if row.cells and (row.worst("psnr") or CEILING) >= level]
    return max(fine, default=None)


def speeds(families: dict[str, list[Result]]) -> list[list[Any]]:
    """One row per method, the fastest at 35 dB first."""
    head = ["method", *(f"{level:g} dB" for level in LEVELS), *(f"worst video {level:g} dB" for level in LEVELS[:2])]
    body = []
    for name, rows in families.items():
        at = [reached(rows, level) for level in LEVELS]
        body.append([name, *map(shown, at), *(f"{one['worst']:.2f}x" if one["worst"] else None for one in at[:2])])
    order = {name: speedup_at(rows, 35.0)[0] or 0.0 for name, rows in families.items()}
    return [head, *sorted(body, key=lambda row: -order[str(row[0])])]


def shown(one: dict[str, Any]) -> str | None:
    """A speedup with its interval."""
    if one["speedup"] is None:
        return None
    between = one["interval"]
    return f"{one['bound']}{one['speedup']:.2f}x" + (f" ({between[0]:.2f}–{between[1]:.2f})" if between else "")


def beside_the_oracle(
    cells: Sequence[Cell], families: dict[str, list[Result]], found: dict[str, Any]
) -> list[list[Any]]:
    """Mean PSNR of every method at the work of so many computed steps, on the videos that the search saw."""
    seen = [video.prompt for video in videos(VIDEOS)][::3]
    rows = results([cell for cell in cells if cell.prompt in seen])
    own = {name: [row for row in rows if row.family == name] for name in families}
    counts = sorted(map(int, found))
    table: list[list[Any]] = [["computed steps of 30", *map(str, counts)]]
    table.append(["searched for each video", *(mean(found[str(n)]["own"]["seen"]) for n in counts)])
    table.append(["searched for these videos together", *(mean(found[str(n)]["common"]["seen"]) for n in counts)])
    body = [[name, *(at_work(some, STEPS / n) for n in counts)] for name, some in own.items()]
    table += sorted(body, key=lambda row: -sum(value or 0.0 for value in row[1:]))
    table.append(
        ["the same on videos that the search did not see", *(mean(found[str(n)]["common"]["unseen"]) for n in counts)]
    )
    return table


def mean(values: Sequence[float]) -> float:
    """Of decibels, at most the ceiling each."""
    return float(np.mean([min(value, CEILING) for value in values]))


def at_work(rows: Sequence[Result], speedup: float) -> float | None:
    """Mean PSNR along a method's front at a speedup of the blocks' work, linear in the work between its settings."""
    points = sorted((1 / row.compute_speedup, decibels(row)) for row in rows if row.compute_speedup)
    work = np.array([one[0] for one in points])
    best = np.maximum.accumulate([one[1] for one in points])
    if not len(work) or not work[0] - 0.01 <= 1 / speedup <= work[-1]:
        return None
    return float(np.interp(1 / speedup, work, best))


def decibels(row: Result) -> float:
    """Mean PSNR; videos without any difference count as the ceiling."""
    return float(np.mean([min(cell.quality.get("psnr") or CEILING, CEILING) for cell in row.cells]))


def draw(families: dict[str, list[Result]], found: dict[str, Any]) -> None:
    """Fronts of all methods, and the oracle over them."""
    with picture("left", 1, (9, 5)) as axes:
        for name, rows in families.items():
            points = sorted((row.compute_speedup, decibels(row)) for row in rows if row.compute_speedup)
            best = np.maximum.accumulate([value for _, value in reversed(points)])[::-1]
            bold = {"lw": 2.4, "marker": "o", "ms": 4} if name == "Adaptive" else {"lw": 1.2}
            axes.plot([speed for speed, _ in points], best, label=name, **bold)
        counts = sorted(map(int, found))
        axes.plot(
            [STEPS / n for n in counts], [mean(found[str(n)]["own"]["seen"]) for n in counts], "k*", ms=9,
            label="searched for each video (4 of them)",
        )  # fmt: skip
        axes.set_xlim(1, 5.2)
        axes.set_ylim(18, 60)
        axes.set_xlabel("blocks' work of the uncached run over that which was done")
        axes.set_ylabel("mean PSNR, dB")
        axes.legend(fontsize=8, ncols=2)


if __name__ == "__main__":
    main()
