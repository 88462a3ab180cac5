"""Writes docs/league.md and its plots from benchmarks/results/league.json: `python -m benchmarks.league.page`.

So the page says what was measured, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.lead.plans import MADE_OF
from benchmarks.league.contenders import KINDS, LEVELS, MODELS, NATIVE, SETTINGS
from benchmarks.league.ladders import LEFT_OUT
from benchmarks.league.summary import AT, Told, summary
from benchmarks.league.taken_over import taken_over
from benchmarks.league.words import CLAIMS, EXCHANGES, SAME, Field, beside, compared, stands, verdict
from benchmarks.race import plot
from benchmarks.race.choice import decibels
from benchmarks.race.command import STAGES
from benchmarks.race.figures import MIDDLE, Standing, behind, standings, worst_speeds
from benchmarks.race.plot import GREY, Style
from benchmarks.race.race import MODELS as EVERY
from benchmarks.race.race import REGIMES
from benchmarks.race.words import between, times

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "league.json"
TIMES = HERE.parent / "results" / "league-times.json"
LEAD = HERE.parent / "results" / "lead.json"
DOCS = HERE.parent.parent / "docs"

Fields = Mapping[str, Mapping[str, Sequence[Standing]]]
"""Model -> regime -> who stands how."""

NAMELESS = "_nolegend_"
"""To matplotlib: not to be told in the legend."""

COLOURS = ("#2a6fbb", "#c0392b", "#6a51a3", "#2f8f83", "#e08a2e")
"""Of the first five."""


def read(path: Path = RESULTS) -> dict[str, Any]:
    """Return what `python -m benchmarks.league` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def fields(found: Mapping[str, Any]) -> Fields:
    """Return who stands how in each race in which anything was made, in the order of the regimes."""
    every = {
        model: {regime: standings(races[regime], KINDS, LEVELS) for regime in REGIMES if regime in races}
        for model, races in found["races"].items()
    }
    some = {model: {regime: field for regime, field in races.items() if field} for model, races in every.items()}
    return {model: races for model, races in some.items() if races}


def sides(race: Mapping[str, Any], field: Field) -> tuple[Field, Field]:
    """Return those who made the many videos, and all on the few."""
    few = standings({"coarse": race["coarse"]}, KINDS, LEVELS, draws=0)
    return [one for one in field if one.stage == "final"], few


def unable(found: Mapping[str, Any], model: str, regime: str) -> dict[str, str]:
    """Return who cannot take part in a race, and why."""
    stages = found["races"][model][regime]
    rows = [row for stage in stages.values() for own in stage.values() for row in own]
    failed = {row["family"]: row["failed"] for row in rows if row["failed"]}
    return {
        family: why for family, why in failed.items() if not any(r["videos"] for r in rows if r["family"] == family)
    }


def unrun(race: Mapping[str, Any], field: Field, able: Iterable[str]) -> list[str]:
    """Return whose method made no video in a race, though nothing says that it cannot."""
    there = {one.family for one in field} | set(able)
    return [family for family in NATIVE if family not in there]


def races_of(found: Mapping[str, Any], times: Mapping[str, Any], over: Mapping[str, list[str]]) -> list[Told]:
    """Return every race in which anything was made, as the page tells it."""
    made = []
    for model, races in fields(found).items():
        for regime, field in races.items():
            race, where = found["races"][model][regime], f"{model}/{regime}"
            out = unable(found, model, regime)
            made.append(
                Told(
                    model,
                    regime,
                    REGIMES[regime].title if model == MODELS[0] else f"{model}, {REGIMES[regime].title}",
                    field,
                    *sides(race, field),
                    times.get(where, {}),
                    dropped(race, field),
                    unrun(race, field, out),
                    out,
                    over.get(where, ()),
                )
            )
    return made


def cause(why: str) -> str:
    """Return what was found, of a refusal's line."""
    return why.split("; ")[0].removeprefix("found ")


def kibibytes(kept: float | None) -> str:
    """Return bytes in words."""
    return "–" if kept is None else f"{kept / 1024:.0f} KiB"


def dropped(race: Mapping[str, Any], field: Field) -> list[str]:
    """Return who was so far behind on the few videos that the many were not made."""
    over = {name for name, rows in race["final"].items() if not rows}
    behind = {row["family"] for name in over for row in race["coarse"].get(name, ()) if row["videos"]}
    return [one.family for one in field if one.stage != "final" and one.family in behind]


def styles() -> Style:
    """The first five of a panel bold, fewer steps grey; the other caches thin, with one name for all of them."""
    colours = iter(COLOURS)
    others = chain(["the other caches"], repeat(NAMELESS))

    def style(one: Standing) -> Mapping[str, Any]:
        if one.kind == "fewer steps":
            return GREY
        colour = next(colours, None) if one.kind == "native" else None
        return {"lw": 2.2, "color": colour} if colour else {"lw": 0.8, "color": "#bbbbbb", "label": next(others)}

    return style


def draw(title: str, field: Sequence[Standing], target: Path) -> None:
    """The fronts of those in one race who made the many videos; of all, where nobody did."""
    plot.draw({title: [one for one in field if one.stage == "final"] or field}, styles, target)


def main() -> None:
    """Write the page."""
    found = read()
    for model in MODELS:
        for regime in EVERY[model].regimes:
            found["races"].setdefault(model, {}).setdefault(regime, {stage: {} for stage in STAGES})
    over = taken_over(found, read(LEAD), SETTINGS.lengths.final)
    measured = read(TIMES)["races"] if TIMES.is_file() else {}
    races = races_of(found, measured, over)
    images = DOCS / "images"
    images.mkdir(parents=True, exist_ok=True)
    for race in races:
        draw(race.title, race.standings, images / f"league-{race.model}-{race.regime}.png")
    jinja = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"times": times, "between": between, "decibels": decibels, "behind": behind, "worst": worst_speeds}
    jinja.filters |= {"cause": cause, "kibibytes": kibibytes}
    lengths = SETTINGS.lengths
    shown = {
        "levels": LEVELS,
        "middle": MIDDLE,
        "at": AT,
        "many": len(lengths.final),
        "few": len(lengths.coarse),
        "possible": sum(len(EVERY[model].regimes) for model in MODELS),
        "lengths": SETTINGS,
        "left_out": LEFT_OUT,
        "methods": found["methods"],
        "made_of": MADE_OF,
    }
    said = {"claims": CLAIMS, "exchanges": EXCHANGES, "same": SAME, "summary": summary(races, found["methods"])}
    how = {"stands": stands, "verdict": verdict, "beside": beside, "compared": compared}
    template = jinja.get_template("league.md.jinja")
    environments = found["environments"] or read(LEAD)["environments"]
    page = template.render(**shown, **said, **how, races=races, environments=environments)
    (DOCS / "league.md").write_text(page.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
