"""`python -m benchmarks.league`: runs what is missing, cell by cell, and writes the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.league.contenders import CONTENDERS, GUARDS, MODELS, QUICK, SETTINGS
from benchmarks.league.facts import facts
from benchmarks.race import command
from benchmarks.race.command import STAGES, chosen
from benchmarks.race.race import MODELS as EVERY
from benchmarks.race.race import REGIMES, Lengths, Race
from benchmarks.race.rows import result_of

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = ROOT / "experiments" / "runs" / "league"
RESULTS = ROOT / "benchmarks" / "results" / "league.json"


def main(
    stage: Annotated[list[str] | None, typer.Option(help="coarse or final; without it, both")] = None,
    model: Annotated[list[str] | None, typer.Option(help="without it, all")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="without it, all of a model")] = None,
    method: Annotated[list[str] | None, typer.Option(help="a contender; without it, all")] = None,
    out: Annotated[Path, typer.Option(help="where the runs are kept")] = RUNS,
    results: Annotated[Path | None, typer.Option(help="where all that is in --out is written to")] = None,
    quick: Annotated[bool, typer.Option(help="see that everything runs, on the model in the box: minutes")] = False,
) -> None:
    """Fill the league table: every caching method against every other, on one model at a time, in one regime."""
    torch.set_num_threads(1)  # so that the same video is the same bits
    stages, names = chosen("stage", stage, STAGES), chosen("method", method, CONTENDERS)
    models, regimes = chosen("model", model, MODELS), chosen("regime", regime, REGIMES)
    lengths, out = (QUICK, out / "quick") if quick else (SETTINGS.lengths, out)
    races = [(one, where) for one in models for where in regimes if where in EVERY[one].regimes]
    for one, where in [("shapes", "euler-3-30")] if quick else races:
        race = Race(one, where, out, CONTENDERS, GUARDS, lengths)
        if "coarse" in stages:
            race.coarse(names)
        for name in names if "final" in stages else ():
            race.final(name)
        if quick:
            typer.echo("\n".join(told(race)))
    if results is not None or not quick:
        write(out, results or RESULTS, lengths)


def told(race: Race) -> list[str]:
    """Return a line for each contender of a race: what its settings came to, or why it did not run."""
    few, many = race.rows("coarse"), race.rows("final")
    lines = []
    for name in {**few, **many}:
        rows = [result_of(row) for row in many.get(name) or few.get(name) or []]
        made = [row for row in rows if row.cells]
        speeds = [speed for row in made if (speed := row.compute_speedup)]
        closeness = [value for row in made if (value := row.mean("psnr")) is not None]
        if made:
            within = [
                f"{min(some):.{digits}f} to {max(some):.{digits}f}{unit}"
                for some, digits, unit in ((speeds, 2, "x less work"), (closeness, 1, " dB"))
                if some
            ]
            count = len(made[0].cells)
            lines.append(f"{name}, {len(made)} settings on {count} video{'s'[: count > 1]}: {', '.join(within)}")
        else:
            why = next((row.failed for row in rows if row.failed), "did not run")
            lines.append(f"{name}: {why.partition('; ')[0]}")
    return lines


def write(out: Path, results: Path, lengths: Lengths = SETTINGS.lengths) -> None:
    """Write what all races in a folder found so far, as one file."""
    races = [(model, regime) for model in MODELS for regime in EVERY[model].regimes]
    command.write(
        races,
        lambda model, regime: Race(model, regime, out, CONTENDERS, GUARDS, lengths),
        out,
        results,
        methods=facts(),
    )


if __name__ == "__main__":
    typer.run(main)
