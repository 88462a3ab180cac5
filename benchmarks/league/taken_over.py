"""What `benchmarks.lead` measured on the league's videos, for those that have not run in the league itself.

It runs by the same mechanism, on the same videos and more, along ladders of its own between guards of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.league.contenders import LIBRARIES

NAMES: Mapping[str, str] = {
    "fixed": "fixed interval",
    "fixed-linear": "fixed interval, linear",
    "easycache": "EasyCache",
    "foresight": "Foresight",
    "fewer-steps": "fewer-steps",
    "multistep": "multistep",
    "Planned": "Planned",
    "Adaptive": "Adaptive",
    "Tuned": "Tuned",
    **{name: f"{name} by {library}" for name, library in LIBRARIES.items()},
}
"""By its contenders, those of the league that they are."""


def taken_over(found: Mapping[str, Any], lead: Mapping[str, Any], places: Sequence[int]) -> dict[str, list[str]]:
    """Put into a league's results what it lacks and the other ones have, and return which families these are.

    Args:
        found: the league's results; changed.
        lead: those of `benchmarks.lead`.
        places: of the league's videos: what was not made of all of them is left out.

    Returns:
        Race, as "model/regime" -> its families.
    """
    told: dict[str, list[str]] = {}
    for model, races in found["races"].items():
        for regime, stages in races.items():
            there = lead["races"].get(model, {}).get(regime, {}).get("final", {})
            for name, rows in there.items():
                new = NAMES.get(name)
                own = [row for one in rows if (row := _as_here(name, one, places))]
                if new and own and not any(row["videos"] for row in stages["final"].get(new, ())):
                    stages["final"][new] = own
                    told.setdefault(f"{model}/{regime}", []).extend(dict.fromkeys(row["family"] for row in own))
    return told


def _as_here(name: str, row: Mapping[str, Any], places: Sequence[int]) -> dict[str, Any] | None:
    """A row under the league's name, of its videos alone; None where not all of them were made."""
    videos = [video for video in row["videos"] if video[0] in places]
    if len(videos) < len(places):
        return None
    family = f"{row['family']} ({LIBRARIES[name]})" if name in LIBRARIES else row["family"]
    return {**row, "family": family, "videos": videos}
