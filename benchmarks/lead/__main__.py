"""`python -m benchmarks.lead`: runs what is missing, in both stages, and writes results, page and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.lead import contenders
from benchmarks.lead.races import MODELS, REGIMES, Race

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent.parent / "experiments" / "runs" / "lead"
STAGES = ("coarse", "final")


def main(
    stage: Annotated[list[str] | None, typer.Option(help="coarse or final; without it, both")] = None,
    model: Annotated[list[str] | None, typer.Option(help="without it, both")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="without it, all four")] = None,
    method: Annotated[list[str] | None, typer.Option(help="a contender; without it, all")] = None,
    out: Annotated[Path, typer.Option(help="where the runs are kept")] = RUNS,
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


def chosen(option: str, given: list[str] | None, there: Any) -> list[str]:
    """Return what was asked for, or all there is, in the order in which it runs."""
    for one in given or ():
        if one not in there:
            raise typer.BadParameter(f"found {one!r}; expected one of {', '.join(there)}", param_hint=f"--{option}")
    return [one for one in there if not given or one in given]


if __name__ == "__main__":
    typer.run(main)
