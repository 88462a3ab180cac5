"""What the results amount to: speeds at a quality, factors over the best of the others, the worst video, the spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.race.choice import LEVELS, decibels
from benchmarks.race.rows import by_family, longest, result_of
from bwcache.study import Result, front, speedup_at
from bwcache.study.results import CEILING, speedup_interval

DRAWS = 300
"""Of the videos, for an interval."""

MIDDLE = 35.0
"""dB: worst videos and spreads are told of settings near it."""


@dataclass(frozen=True)
class Speed:
    """Blocks' work of the uncached run over that which was done, at one mean PSNR.

    Attributes:
        value: None where nobody ran.
        bound: ">=" where even the fastest setting is better, "<=" where none is as good: it is that of the best one
            then. Of a factor "~" where both bound it the other way.
        between: 95 % interval over the videos; None where it is not known.
    """

    value: float | None
    bound: str = ""
    between: tuple[float, float] | None = None

    def over(self, other: Speed) -> Speed:
        """Return how many times faster it is, and which way that is bounded by what is known of both."""
        if self.value is None or other.value is None:
            return Speed(None)
        bounds = {self.bound, {"": "", ">=": "<=", "<=": ">="}.get(other.bound, "~")} - {""}
        return Speed(self.value / other.value, "~" if len(bounds) > 1 else next(iter(bounds), ""))


@dataclass(frozen=True)
class Standing:
    """A family in one race.

    Attributes:
        family, kind: name, and what its contender's kind is.
        rows: its settings.
        stage: "final", or "coarse" where it went no further.
        speeds: at each of the levels.
    """

    family: str
    kind: str
    rows: tuple[Result, ...]
    stage: str
    speeds: tuple[Speed, ...]

    @property
    def places(self) -> frozenset[int]:
        """The videos that all of its settings made."""
        return frozenset.intersection(*(frozenset(cell.seed for cell in row.cells) for row in self.rows))

    @property
    def videos(self) -> int:
        """On so many."""
        return len(self.places)

    @property
    def middle(self) -> Result:
        """The setting on its front whose mean is nearest to `MIDDLE`."""
        return min(front(self.rows, axis="compute"), key=lambda row: abs(decibels(row) - MIDDLE))


def standings(
    race: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]],
    kinds: Mapping[str, str],
    levels: Sequence[float] = LEVELS,
    draws: int | None = None,
) -> list[Standing]:
    """Return every family of a race, by its last stage; those of the final first, and of each the fastest.

    Args:
        race: what it found.
        kinds: of each contender.
        levels: in dB.
        draws: of the videos, for the intervals; 0: there are none.
    """
    found: dict[str, Standing] = {}
    for stage in ("coarse", "final"):
        for name, plain in race.get(stage, {}).items():
            for family, rows in by_family([result_of(row) for row in plain if row["videos"]]).items():
                own = tuple(longest(rows))
                found[family] = Standing(
                    family, kinds[name], own, stage, tuple(speed(own, level, draws) for level in levels)
                )
    return sorted(
        found.values(), key=lambda one: (one.stage != "final", -sum(speed.value or 0.0 for speed in one.speeds))
    )


def speed(rows: Sequence[Result], level: float, draws: int | None = None) -> Speed:
    """Return how fast a family is at a mean PSNR, along its front; of the interval so many draws, 0: there is none."""
    value, bound = speedup_at(rows, level)
    if value is None:
        return Speed(max(rows, key=decibels).compute_speedup, "<=")
    draws = DRAWS if draws is None else draws
    return Speed(value, bound, speedup_interval(rows, level, draws=draws) if draws else None)


def worst_speeds(rows: Sequence[Result], levels: Sequence[float]) -> tuple[Speed, ...]:
    """Return how fast a family is at each level by its worst video: its PSNR in place of the mean, and no interval."""
    return tuple(speed([by_worst(row) for row in rows], level, draws=0) for level in levels)


def by_worst(row: Result) -> Result:
    """Return a setting all of whose videos have the PSNR of the worst one."""
    worst: dict[str, float | None] = {"psnr": min(video_decibels(row))}
    return replace(row, cells=tuple(replace(cell, quality=worst, identical=False) for cell in row.cells))


def best(one: Standing, field: Sequence[Standing], kind: str) -> tuple[tuple[str, Speed], ...]:
    """Return, at each level, the fastest family of a kind among those on the same videos, and its speed.

    ("", none) where none of them ran: what was made of other videos, fewer or easier, tells nothing.
    """
    rivals = [other for other in field if other.kind == kind and other.places == one.places]
    found = []
    for place in range(len(one.speeds)):
        known = [(other.family, other.speeds[place]) for other in rivals if other.speeds[place].value]
        found.append(max(known, key=lambda pair: pair[1].value or 0.0, default=("", Speed(None))))
    return tuple(found)


def factors(one: Standing, field: Sequence[Standing], kind: str) -> tuple[Speed, ...]:
    """Return, at each level, how many times faster a family is than the fastest of a kind on the same videos."""
    return tuple(own.over(other) for own, (_, other) in zip(one.speeds, best(one, field, kind), strict=True))


def video_decibels(row: Result) -> list[float]:
    """Return the PSNR of each video; one without any difference counts as the ceiling."""
    return [min(cell.quality.get("psnr") or CEILING, CEILING) for cell in row.cells]


def deviation(row: Result) -> float:
    """Return the standard deviation of the PSNR over the videos, in dB."""
    return statistics.pstdev(video_decibels(row))


def behind(row: Result) -> float:
    """Return how far the worst video is below the mean, in dB."""
    return statistics.fmean(video_decibels(row)) - min(video_decibels(row))


def by_label(rows: Sequence[Result]) -> dict[str, Result]:
    """Return the settings by what they are called."""
    return {row.label: row for row in rows}


def by_number(
    races: Sequence[Sequence[Standing]], family: str, named: Callable[[Sequence[Result]], dict[str, Result]] = by_label
) -> dict[str, list[float]]:
    """Return the settings of a family that ran in all races, each with its mean PSNR in each, in the family's order.

    Args:
        races: who stands how in each.
        family: its name.
        named: what settings of different races are one and the same by.
    """
    means: list[dict[str, float]] = [
        {name: decibels(row) for one in field if one.family == family for name, row in named(one.rows).items()}
        for field in races
    ]
    everywhere = [label for label in (means[0] if means else ()) if all(label in one for one in means)]
    return {label: [one[label] for one in means] for label in everywhere}


def one_number(found: Mapping[str, Sequence[float]]) -> tuple[str, Sequence[float]] | None:
    """Return the setting of `by_number` with a mean nearest to `MIDDLE`, and its mean PSNR in each race; or None."""
    if not found:
        return None
    return min(sorted(found.items()), key=lambda one: abs(statistics.fmean(one[1]) - MIDDLE))
