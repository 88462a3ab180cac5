"""`python -m benchmarks.lead`: runs what is missing, in both stages, and writes results, page and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.lead.contenders import CONTENDERS, GUARDS, MODELS
from benchmarks.race import command
from benchmarks.race.command import STAGES, chosen
from benchmarks.race.race import FLOW, Lengths, Race

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = ROOT / "experiments" / "runs" / "lead"
RESULTS = ROOT / "benchmarks" / "results" / "lead.json"


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
    asked = {"stage": (stage, STAGES), "model": (model, MODELS), "regime": (regime, FLOW)}
    wanted = {name: chosen(name, *pair) for name, pair in asked.items()}
    names = chosen("method", method, CONTENDERS)
    for one in wanted["model"]:
        for where in wanted["regime"]:
            race = Race(one, where, out, CONTENDERS, GUARDS)
            if "coarse" in wanted["stage"]:
                race.coarse(names)
            for name in names if "final" in wanted["stage"] else ():
                race.final(name)
    if results is not None:
        write(out, results)


def write(out: Path, results: Path, lengths: Lengths | None = None) -> None:
    """Write what all races in a folder found so far, as one file."""
    races = [(model, regime) for model in MODELS for regime in FLOW]
    command.write(races, lambda model, regime: Race(model, regime, out, CONTENDERS, GUARDS, lengths), out, results)


if __name__ == "__main__":
    typer.run(main)
