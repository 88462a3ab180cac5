"""What the grades come to without tuning: both small models, four ways to sample, videos on which nothing was chosen.

`python -m benchmarks.grades` runs what is missing and writes `results/grades.json`, from which docs/tune.md has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.lead.races import MODELS, REGIMES, Race
from bwcache.core.files import write_json
from bwcache.policies.grades import GRADES
from bwcache.study import Study, Video, run_study
from bwcache.study.methods import UnderPolicy
from bwcache.study.results import CEILING

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "experiments" / "runs" / "grades"
RESULTS = ROOT / "benchmarks" / "results" / "grades.json"


def main(
    model: Annotated[list[str] | None, typer.Option(help="without it, both")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="without it, all four")] = None,
    videos: Annotated[int, typer.Option(help="at most 24")] = 24,
    out: Annotated[Path, typer.Option(help="where the runs are kept")] = RUNS,
    results: Annotated[Path, typer.Option(help="what they come to")] = RESULTS,
) -> None:
    """Measure each grade on each model in each regime."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for one in model or MODELS:
        for where in regime or REGIMES:
            found.setdefault(one, {})[where] = measured(Race(one, where, out), videos)
            write_json(results, {"videos": videos, "models": found})
            print(one, where, found[one][where], flush=True)


def measured(race: Race, videos: int) -> dict[str, dict[str, float]]:
    """Return grade -> mean and worst PSNR in dB, and speed: steps over computed steps."""
    methods = {name: UnderPolicy(grade.policy, ("tolerance",)) for name, grade in GRADES.items()}
    places = race.lengths.final[:videos]
    study = Study(tuple(methods.values()), tuple(Video(race.request(i).prompt, i) for i in places), race.request())
    cells = run_study(race.pipe, study, race.folder, beside=len(methods))
    found = {}
    for name, method in methods.items():
        own = [cell for cell in cells if cell.label == method.label]
        values = [CEILING if cell.identical else cell.quality["psnr"] or 0.0 for cell in own]
        computed = sum(cell.computed or 0 for cell in own) / len(own)
        found[name] = {
            "psnr": round(sum(values) / len(values), 2),
            "worst": round(min(values), 2),
            "speed": round(race.steps / computed, 2),
        }
    return found


if __name__ == "__main__":
    typer.run(main)
