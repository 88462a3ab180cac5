"""`python -m benchmarks.goldens record FILE [--quick]`, `python -m benchmarks.goldens compare OLD NEW`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.goldens import compare as comparison
from benchmarks.goldens import record as recording

app = typer.Typer(help="What the engine decides and what comes out, bit for bit.", add_completion=False)


@app.command()
def record(
    file: Annotated[Path, typer.Argument(help="where to write; what is there already is not run again")],
    quick: Annotated[bool, typer.Option("--quick", help="a few that stand for all, in less than a minute")] = False,
    part: Annotated[str, typer.Option(help="for several processes side by side: 1/2 and 2/2")] = "1/1",
    only: Annotated[str, typer.Option(help="regular expression for subjects, such as model/Wan")] = "",
) -> None:
    """Record the goldens of the code that is imported as bwcache."""
    try:
        number, _, count = part.partition("/")
        done = recording.record(file, quick, (int(number), int(count)), only)
    except ValueError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{done} cases recorded, {len(recording.read(file)[1])} in {file}")


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="goldens of the code before")],
    new: Annotated[Path, typer.Argument(help="goldens of the code after")],
    but: Annotated[list[str] | None, typer.Option(help="a field that may differ, such as reason or site")] = None,
) -> None:
    """Say what differs, one line for each case, and end with 1 if anything does."""
    try:
        (was, before), (now, after) = recording.read(old), recording.read(new)
    except (OSError, ValueError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    for name in ("torch", "machine"):
        if was[name] != now[name]:
            typer.echo(f"found {name} {was[name]!r} and {now[name]!r}: bits may differ for that alone", err=True)
    found = list(comparison.differences(before, after, but or ()))
    for line in found:
        typer.echo(line)
    more = len(after.keys() - before.keys())
    typer.echo(f"{len(found)} of {len(before)} cases differ" + (f"; {more} are new" if more else ""))
    raise typer.Exit(bool(found))


if __name__ == "__main__":
    app()
