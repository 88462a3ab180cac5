"""Writes docs/league.md and its plots from benchmarks/results/league.json: `python -m benchmarks.league.page`.

So the page says what was measured, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.league.contenders import KINDS, LEVELS, MODELS, NATIVE, SETTINGS
from benchmarks.league.ladders import LEFT_OUT
from benchmarks.league.taken_over import taken_over
from benchmarks.league.words import CLAIMS, EXCHANGES, SAME, Field, beside, compared, led, stands, verdict
from benchmarks.race import plot
from benchmarks.race.choice import decibels
from benchmarks.race.command import STAGES
from benchmarks.race.figures import Standing, behind, standings, worst_speeds
from benchmarks.race.plot import GREY, Style
from benchmarks.race.race import MODELS as EVERY
from benchmarks.race.race import REGIMES
from benchmarks.race.words import between, times

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "league.json"
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
    few = standings({"coarse": race["coarse"]}, KINDS, LEVELS)
    return [one for one in field if one.stage == "final"], few


def unable(found: Mapping[str, Any], model: str, regime: str) -> dict[str, str]:
    """Return who cannot take part in a race, and why."""
    stages = found["races"][model][regime]
    rows = [row for stage in stages.values() for own in stage.values() for row in own]
    failed = {row["family"]: row["failed"] for row in rows if row["failed"]}
    return {
        family: why for family, why in failed.items() if not any(r["videos"] for r in rows if r["family"] == family)
    }


def missing(found: Mapping[str, Any], every: Fields) -> list[str]:
    """Return, in words, in which races nothing was made, and who in the others has not run, or not to the end."""
    lines: dict[str, list[str]] = {}
    for model in MODELS:
        for regime in EVERY[model].regimes:
            title, field = f"{model}, {REGIMES[regime].title}", every.get(model, {}).get(regime)
            if not field:
                lines.setdefault("nothing", []).append(title)
                continue
            race = found["races"][model][regime]
            there = {one.family: one.stage for one in field} | dict.fromkeys(unable(found, model, regime), "final")
            unrun = [family for family in NATIVE if family not in there]
            left = dropped(race, field)
            few = [family for family, stage in there.items() if stage != "final" and family not in left]
            for what, names in ((f"not {'; '.join(unrun)}", unrun), (f"on few videos alone {'; '.join(few)}", few)):
                if names:
                    lines.setdefault(what, []).append(title)
    return [f"{'; '.join(titles)}: {what}" for what, titles in lines.items()]


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
    every = fields(found)
    images = DOCS / "images"
    images.mkdir(parents=True, exist_ok=True)
    for model, races in every.items():
        for regime, field in races.items():
            draw(f"{model}: {REGIMES[regime].title}", field, images / f"league-{model}-{regime}.png")
    jinja = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"times": times, "between": between, "decibels": decibels, "behind": behind, "worst": worst_speeds}
    shown = {
        "levels": LEVELS,
        "regimes": REGIMES,
        "lengths": SETTINGS,
        "left_out": LEFT_OUT,
        "methods": found["methods"],
    }
    said = {"claims": CLAIMS, "exchanges": EXCHANGES, "same": SAME, "missing": missing(found, every), "over": over}
    how = {"stands": stands, "led": led, "verdict": verdict, "beside": beside, "compared": compared}
    told = {
        (model, regime): {
            "sides": sides(found["races"][model][regime], field),
            "dropped": dropped(found["races"][model][regime], field),
            "unable": unable(found, model, regime),
        }
        for model, races in every.items()
        for regime, field in races.items()
    }
    template = jinja.get_template("league.md.jinja")
    environments = found["environments"] or read(LEAD)["environments"]
    page = template.render(**shown, **said, **how, models=every, told=told, environments=environments)
    (DOCS / "league.md").write_text(page.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
