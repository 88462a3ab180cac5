"""What the commands of races have in common: what was asked for, and all that was found as one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from benchmarks.race.race import Race
from bwcache.core.files import write_text
from bwcache.measure.environment import environment

STAGES = ("coarse", "final")


def write(
    races: Sequence[tuple[str, str]], made: Callable[[str, str], Race], out: Path, results: Path, **more: Any
) -> None:
    """Write what all races in a folder found so far, as one file; what is there of other contenders and races stays.

    Args:
        races: model and regime of each.
        made: makes a race of them.
        out: the folder.
        results: the file.
        more: that stands in it too.
    """
    found: dict[str, Any] = {"environments": {}, **more, "races": {}}
    for model, regime in races:
        if (out / model / regime).is_dir():
            race = made(model, regime)
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
