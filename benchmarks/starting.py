"""How long it takes until something can begin: `python -m benchmarks.starting` prints a table.

CPU time, user and system, of fresh processes; the least of several, since another process on the machine can only add
to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common import publish
from benchmarks.growing import Chain

COMMANDS: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    "import bwcache": ("-c", "import bwcache"),
    "bwcache --help": ("-c", "import sys; from bwcache.cli import main; sys.argv[0] = 'bwcache'; main()", "--help"),
}


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    """What a fresh Python takes with these arguments, user and system.

    Raises:
        RuntimeError: it did not end well.
    """
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"found exit code {process.returncode} of {arguments}; expected 0; run it alone to see why")
    return usage.ru_utime + usage.ru_stime


def measured(rounds: int) -> dict[str, float]:
    """Of each command the least CPU seconds, all in turns."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            taken[name].append(cpu_seconds(arguments))
    return {name: min(seconds) for name, seconds in taken.items()}


def table(found: dict[str, float]) -> str:
    """One line per command."""
    return "\n".join(f"{name:24} {1e3 * seconds:8.0f} ms" for name, seconds in found.items())


def main(
    rounds: Annotated[int, typer.Option(help="times that each is started")] = 10,
    out: Annotated[Path | None, typer.Option(help="also write JSON here")] = None,
) -> None:
    """Measure the start."""
    found = measured(rounds)
    print(table(found))
    if out is not None:
        publish(Chain(1), {"rounds": rounds, "cpu_seconds": found}, out)


if __name__ == "__main__":
    typer.run(main)
