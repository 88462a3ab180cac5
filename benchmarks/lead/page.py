"""Writes docs/lead.md and its plots from benchmarks/results/lead.json: `python -m benchmarks.lead.page`.

So the page says what was measured, and nothing else.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.lead.contenders import KINDS, MODELS, OURS, TUNED
from benchmarks.lead.costs import Costs, costs
from benchmarks.lead.plans import MADE_OF, wished
from benchmarks.race import plot
from benchmarks.race.choice import LEVELS, decibels, leading
from benchmarks.race.figures import (
    MIDDLE,
    Speed,
    Standing,
    behind,
    best,
    by_label,
    by_number,
    deviation,
    factors,
    one_number,
    standings,
)
from benchmarks.race.plot import GREY, Style
from benchmarks.race.race import FLOW, ROUNDS, Lengths
from benchmarks.race.race import REGIMES as EVERY
from benchmarks.race.rows import by_family, longest, result_of
from benchmarks.race.words import between, times

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "lead.json"
DOCS = HERE.parent.parent / "docs"

REGIMES = {regime: EVERY[regime] for regime in FLOW}

Fields = Mapping[str, Mapping[str, Sequence[Standing]]]
"""Model -> regime -> who stands how."""

AIMS = {"over the best peer": (1.5, 1.5, 1.5), "over fewer steps": (2.0, 2.0, 2.0)}
"""At each of the levels, in every regime."""

AIMS_WITH_PLAN = AIMS | {"over the best peer": (1.75, 1.75, 1.6)}
"""Of what is made for the model and the regime."""

AIM_KEPT = 0.1
"""Of a hidden state."""

AIM_BEHIND, AIM_SPREAD = 8.0, 1.5
"""dB: of the worst video below the mean, and standard deviation over the regimes of one setting's mean."""

BLUE, ORANGE, GREEN, RED, VIOLET = "#2a6fbb", "#e08a2e", "#2f8f83", "#c0392b", "#6a51a3"
BOLD = dict(zip(OURS, cycle((BLUE, RED, VIOLET, ORANGE, GREEN)), strict=False))


def read(path: Path = RESULTS) -> dict[str, Any]:
    """Return what `python -m benchmarks.lead` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def fields(found: Mapping[str, Any]) -> Fields:
    """Return who stands how in each race that anyone ran in, in the order of `REGIMES`."""
    every = {
        model: {regime: standings(races[regime], KINDS) for regime in REGIMES if any(races.get(regime, {}).values())}
        for model, races in found["races"].items()
    }
    return {model: races for model, races in every.items() if races}


def missing(found: Mapping[str, Any], every: Fields) -> list[str]:
    """Return, in words, which races nobody ran in, and in the others who has not run, or on few videos though ahead."""
    lines = []
    for model in MODELS:
        for regime, how in REGIMES.items():
            field = every.get(model, {}).get(regime, [])
            told = unrun(found["races"][model][regime], field) if field else ["nothing"]
            lines += [f"{model}, {how.title}: {one}" for one in told]
    return lines


def unrun(race: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]], field: Sequence[Standing]) -> list[str]:
    """Return, in words, who has not run in one race."""
    lines, ran = [], {name for stage in race.values() for name, rows in stage.items() if rows}
    own = [name for name in OURS if name not in {one.family for one in field}]
    peers = [name for name, kind in KINDS.items() if kind == "peer" and name not in ran]
    for names in (own, peers):
        if names:
            lines.append(f"not {', '.join(names)}")
    first = [result_of(row) for name, rows in race.get("coarse", {}).items() if KINDS[name] == "peer" for row in rows]
    ahead = leading({name: longest(rows) for name, rows in by_family(first).items()}, ROUNDS[-1][-1])
    few = [one.family for one in field if one.stage != "final" and one.family in ahead]
    if few:
        lines.append(f"{', '.join(few)} on few videos alone, though near the front of the peers there")
    if not any(one.kind == "peer" and one.stage == "final" for one in field):
        lines.append("no peer on the many videos")
    return lines


def ours(every: Fields) -> list[str]:
    """Return the families of ours that ran anywhere."""
    there = {one.family for races in every.values() for field in races.values() for one in field}
    return [family for family in OURS if family in there]


def verdict(races: Mapping[str, Sequence[Standing]], family: str) -> list[tuple[str, str, str, bool | None]]:
    """Return, for one method on one model, a figure, what is aimed at, what was found, and whether that is reached.

    None in the last place: it is not known. By its last stage alone, and against those on the same videos.
    """
    final = {regime: [one for one in field if one.stage == "final"] for regime, field in races.items()}
    own = {regime: one for regime, field in final.items() for one in field if one.family == family}
    if not own:
        return []
    lines: list[tuple[str, str, str, bool | None]] = []
    for name, aims in (AIMS_WITH_PLAN if family == TUNED else AIMS).items():
        kind = "peer" if "peer" in name else "fewer steps"
        over = [factors(one, races[regime], kind) for regime, one in own.items()]
        least = [lowest([each[place] for each in over]) for place in range(len(LEVELS))]
        fine = None if all(one.value is None for one in least) else all(map(reaches, least, aims))
        lines.append((f"{name} at 30 / 35 / 40 dB, least of the regimes", slashed(aims), slashed(least), fine))
    middles = [one.middle for one in own.values() if abs(decibels(one.middle) - MIDDLE) <= 3]
    if middles:
        most = max(behind(row) for row in middles)
        text = f"the worst video below the mean, at settings near {MIDDLE:g} dB"
        lines.append((text, f"<= {AIM_BEHIND:g} dB", f"{most:.1f} dB", most <= AIM_BEHIND))
    named = wished if family == TUNED else by_label
    number = one_number(by_number([final[regime] for regime in own], family, named)) if len(own) > 1 else None
    if number:
        spread = statistics.pstdev(number[1])
        text = f"one number, one quality: {number[0]}, standard deviation over {len(own)} regimes"
        lines.append((text, f"<= {AIM_SPREAD:g} dB", f"{spread:.1f} dB", spread <= AIM_SPREAD))
    return lines


def beside(found: Costs) -> list[tuple[str, str, str, bool | None]]:
    """Return the same of what `Planned` costs beside what it computes."""
    kept = f"{found.kept:.2f}"
    return [
        ("kept between steps per guidance branch, of a hidden state", f"<= {AIM_KEPT:g}", kept, found.kept <= AIM_KEPT),
        ("modules of the denoiser that a reused step calls", "none", str(found.calls or "none"), not found.calls),
    ]


def ladder(races: Mapping[str, Sequence[Standing]], family: str) -> list[tuple[str, Sequence[float], float]]:
    """Return each number that one of ours ran with in all regimes, its mean PSNR in each, and their spread, in dB."""
    final = [[one for one in field if one.stage == "final"] for field in races.values()]
    found = by_number(final, family) if len(final) > 1 else {}
    numbers = {label.partition("(")[2].partition(",")[0]: means for label, means in found.items()}
    return [(number, means, statistics.pstdev(means)) for number, means in numbers.items()]


def lowest(some: Sequence[Speed]) -> Speed:
    """Return the least of the factors; it is one at most where any of them is, and unknown where any of them is."""
    if not some or any(one.value is None for one in some):
        return Speed(None)
    least = min(some, key=lambda one: one.value or 0.0)
    return Speed(least.value, "<=" if any(one.bound in ("<=", "~") for one in some) else least.bound)


def reaches(one: Speed, aim: float) -> bool:
    """Return whether a factor is known to be as large."""
    return one.value is not None and one.bound in ("", ">=") and one.value >= aim


def slashed(some: Sequence[Any]) -> str:
    """Three figures in a row."""
    return " / ".join(times(one) if isinstance(one, Speed) else f"{one:g}x" for one in some)


def styles() -> Style:
    """Ours bold, peers thin, fewer steps grey."""

    def style(one: Standing) -> Mapping[str, Any]:
        if one.kind == "ours":
            return {"lw": 2.4, "color": BOLD[one.family], "ls": "-" if one.stage == "final" else ":"}
        return {} if one.kind == "peer" else GREY

    return style


def draw(every: Fields, regime: str, target: Path) -> None:
    """The fronts of one regime, a panel per model."""
    titled = {f"{model}: {REGIMES[regime].title}": races[regime] for model, races in every.items() if regime in races}
    plot.draw(titled, styles, target)


def main() -> None:
    """Write the page."""
    found = read()
    every = fields(found)
    images = DOCS / "images"
    images.mkdir(parents=True, exist_ok=True)
    drawn = [regime for regime in REGIMES if any(regime in races for races in every.values())]
    for regime in drawn:
        draw(every, regime, images / f"lead-{regime}.png")
    jinja = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"times": times, "between": between, "decibels": decibels, "behind": behind, "sd": deviation}
    plans = {"made_of": len(MADE_OF), "first": MADE_OF[0], "last": MADE_OF[-1], "name": TUNED}
    shown = {"levels": LEVELS, "regimes": REGIMES, "lengths": Lengths(), "families": ours(every), "drawn": drawn}
    how = {
        "best": best,
        "factors": factors,
        "verdict": verdict,
        "ladder": ladder,
        "missing": missing(found, every),
        "plans": plans,
        "beside": {model: beside(costs(model)) for model in every},
    }
    template = jinja.get_template("lead.md.jinja")
    page = template.render(**shown, **how, models=every, environments=found["environments"])
    (DOCS / "lead.md").write_text(page.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
