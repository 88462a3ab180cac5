"""`python -m benchmarks.lead`: runs what is missing, in both stages, and writes results, page and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.lead import contenders
from benchmarks.lead.races import MODELS, REGIMES, Lengths, Race
from bwcache.core.files import write_text
from bwcache.measure.environment import environment

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = ROOT / "experiments" / "runs" / "lead"
RESULTS = ROOT / "benchmarks" / "results" / "lead.json"
STAGES = ("coarse", "final")


def main(
    stage: Annotated[list[str] | None, typer.Option(help="coarse or final; without it, both")] = None,
    model: Annotated[list[str] | None, typer.Option(help="without it, both")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="without it, all four")] = None,
    method: Annotated[list[str] | None, typer.Option(help="a contender; without it, all")] = None,
    out: Annotated[Path, typer.Option(help="where the runs are kept")] = RUNS,
    results: Annotated[
        Path | None, typer.Option(help="where all that is in --out is written to; what others found there stays")
    ] = RESULTS,
) -> None:
    """Fill the table: our methods against the best of all others."""
    torch.set_num_threads(1)  # so that the same video is the same bits
    asked = {"stage": (stage, STAGES), "model": (model, MODELS), "regime": (regime, REGIMES)}
    wanted = {name: chosen(name, *pair) for name, pair in asked.items()}
    names = chosen("method", method, contenders.NAMES)
    for one in wanted["model"]:
        for where in wanted["regime"]:
            race = Race(one, where, out)
            if "coarse" in wanted["stage"]:
                race.coarse(names)
            for name in names if "final" in wanted["stage"] else ():
                race.final(name)
    if results is not None:
        write(out, results)


def write(out: Path, results: Path, lengths: Lengths | None = None) -> None:
    """Write what all races in a folder found so far, as one file; what is there of other contenders and races stays."""
    found: dict[str, Any] = {"environments": {}, "races": {}}
    for model in MODELS:
        for regime in REGIMES:
            if not (out / model / regime).is_dir():
                continue
            race = Race(model, regime, out, lengths)
            found["environments"][model] = environment(race.pipe)
            found["races"].setdefault(model, {})[regime] = {stage: race.rows(stage) for stage in STAGES}
    found = merged(json.loads(results.read_text(encoding="utf-8")), found) if results.is_file() else found
    write_text(results, json.dumps(found, separators=(",", ":")).replace('{"family"', '\n{"family"') + "\n")


def merged(there: Any, new: Any) -> Any:
    """Return one object of both, level by level; where both have a list or a value, the new one."""
    if not isinstance(there, dict) or not isinstance(new, dict):
        return new
    return {**there, **{name: merged(there[name], one) if name in there else one for name, one in new.items()}}


def chosen(option: str, given: list[str] | None, there: Any) -> list[str]:
    """Return what was asked for, or all there is, in the order in which it runs."""
    for one in given or ():
        if one not in there:
            raise typer.BadParameter(f"found {one!r}; expected one of {', '.join(there)}", param_hint=f"--{option}")
    return [one for one in there if not given or one in given]


if __name__ == "__main__":
    typer.run(main)
