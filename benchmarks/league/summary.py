"""What follows from the results, in sentences: the top of the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.league.contenders import LEVELS
from benchmarks.league.words import (
    CLAIMS,
    CLEAR,
    EXCHANGES,
    SAME,
    Exchange,
    Field,
    beside,
    compared,
    verdict,
)
from benchmarks.race.figures import MIDDLE, Speed, Standing, worst_speeds
from benchmarks.race.words import times

AT = LEVELS.index(MIDDLE)
"""The level of which the sentences speak."""

FIRST = 5
"""So many are the leaders."""


@dataclass(frozen=True)
class Told:
    """One race, as the page tells it.

    Attributes:
        model, regime: their names.
        title: for people.
        standings: who stands how, by their last stage.
        many, few: those who made the many videos, and all on the few.
        times: family -> speed by time of its setting near the middle, as `benchmarks.league.times` has it.
        dropped: so far behind on the few videos that they made no more.
        unrun: who made no video yet.
        unable: who cannot take part, and why.
        over: taken over from the page of ours and peers.
    """

    model: str
    regime: str
    title: str
    standings: Field
    many: Field
    few: Field
    times: Mapping[str, Mapping[str, Any]]
    dropped: Sequence[str] = ()
    unrun: Sequence[str] = ()
    unable: Mapping[str, str] = field(default_factory=dict)
    over: Sequence[str] = ()

    @property
    def front(self) -> Field:
        """Those on the most videos that anybody made, the fastest at the middle level first."""
        most = max((one.videos for one in self.standings), default=0)
        return sorted((one for one in self.standings if one.videos == most), key=_rank)

    @property
    def rest(self) -> Field:
        """The others, the fastest at the middle level first."""
        front = {one.family for one in self.front}
        return sorted((one for one in self.standings if one.family not in front), key=_rank)

    @property
    def caches(self) -> Field:
        """Those of them that are no runs of fewer steps."""
        return [one for one in self.front if one.kind != "fewer steps"]

    def by_time(self, one: Standing) -> float | None:
        """Return how many times faster by time the setting near the middle is; None where it was not measured."""
        row = self.times.get(one.family)
        return row["speedup"] if row and row["label"] == one.middle.label else None

    def reads(self, one: Standing) -> float | None:
        """Return how many numbers a step of it asks of the device; None where it was not counted."""
        row = self.times.get(one.family)
        return row["reads_per_step"] if row else None


def summary(races: Sequence[Told], methods: Mapping[str, Any]) -> list[str]:
    """Return what follows, some sentences for each race and each question; what cannot be said yet is left out."""
    said = [
        *(race_in_words(race) for race in races),
        *(idea(name, pairs, races) for name, pairs in EXCHANGES.items()),
        published(races),
        others(races),
        by_time(races),
        waits(races, methods),
    ]
    return [one for one in said if one]


def race_in_words(race: Told) -> str:
    """Who is the fastest at the middle level in one race, by the mean and by the worst video, and of whom."""
    able = [one for one in race.caches if one.speeds[AT].bound != "<="][:3]
    if not able:
        return ""
    count = f"{len(race.caches)} caches on {able[0].videos} videos{'' if race.many else ', those for choosing'}"
    told = [f"at {MIDDLE:g} dB {', '.join(f'{one.family} {times(one.speeds[AT])}' for one in able)}"]
    told += [part for part in (_worst(race), _ahead(race), _memory(race)) if part]
    return f"**{race.title}** ({count}): {'; '.join(told)}."


def _worst(race: Told) -> str:
    """Who is the fastest where the worst video shall reach the level."""
    speeds = [(one.family, worst_speeds(one.rows, [MIDDLE])[0]) for one in race.caches]
    able = [(family, speed) for family, speed in speeds if speed.value and speed.bound != "<="]
    if not able:
        return ""
    family, speed = max(able, key=lambda pair: pair[1].value or 0.0)
    return f"where the worst video shall have as much, {family} {times(speed)}"


def _ahead(race: Told) -> str:
    """How many caches are clearly faster than fewer steps, and than the plainest cache."""
    told = []
    for baseline in ("fewer steps", "fixed interval"):
        bases = [one.speeds[AT] for one in race.front if baseline in (one.family, one.kind) and one.speeds[AT].value]
        if bases:
            best = max(bases, key=lambda speed: speed.value or 0.0)
            rest = [one.speeds[AT].over(best) for one in race.caches if one.family != baseline]
            told.append(f"{sum(map(_clearly, rest))} of {len(rest)} are clearly faster than {baseline}")
    return ", ".join(told)


def _clearly(factor: Speed) -> bool:
    return factor.value is not None and factor.value >= CLEAR and factor.bound in ("", ">=")


def _memory(race: Told) -> str:
    """What the leaders keep between steps, and who keeps the most."""
    kept = {one.family: one.middle.kept_bytes for one in race.caches if one.middle.kept_bytes}
    first = [kept[one.family] / 1024 for one in race.caches[:FIRST] if one.family in kept]
    if len(kept) <= FIRST:
        return ""
    most = max(kept, key=lambda family: kept[family])
    return f"the first {FIRST} keep {min(first):.0f} to {max(first):.0f} KiB, {most} {kept[most] / 1024:.0f}"


def idea(name: str, pairs: Iterable[Exchange], races: Sequence[Told]) -> str:
    """What one idea is worth at the middle level, from race to race."""
    told: dict[str, list[str]] = {}
    for pair in pairs:
        found = [both for race in races if (both := compared(pair.one, pair.other, race.many, race.few))]
        factors = reach([both.speeds[AT] for both in found])
        if factors:
            told.setdefault(pair.other, []).append(f"{pair.one} {factors}")
    parts = [f"over {other}: {', '.join(ones)}" for other, ones in told.items()]
    return f"**{name}**, times faster at {MIDDLE:g} dB (below 1: slower), {'; '.join(parts)}." if parts else ""


def reach(factors: Sequence[Speed]) -> str:
    """Return the least and the greatest of some factors in words, and what is but bounded and lies beyond them."""
    told = [one for one in factors if one.value is not None and one.bound != "~"]
    known = [one.value or 0.0 for one in told if not one.bound]
    above = [one.value or 0.0 for one in told if one.bound == ">=" and (one.value or 0.0) > max(known, default=0.0)]
    below = [one.value or 0.0 for one in told if one.bound == "<=" and (not known or (one.value or 0.0) < min(known))]
    ends = dict.fromkeys(f"{one:.2f}" for one in (min(known), max(known))) if known else ()
    parts = [f"<={min(below):.2f}x"] if below else []
    parts += [f"{' to '.join(ends)}x"] if known else []
    parts += [f">={max(above):.2f}x"] if above else []
    return " and ".join(parts)


def published(races: Sequence[Told]) -> str:
    """How many published orders hold here at the middle level."""
    told: dict[str, list[str]] = {}
    for claim in CLAIMS:
        found = [both for race in races if (both := compared(claim.ahead, claim.behind, race.many, race.few))]
        factors = [both.speeds[AT] for both in found]
        if factors:
            words = f"{claim.ahead} ahead of {claim.behind} {reach(factors)}".rstrip()
            told.setdefault(_of_all([verdict([one]) for one in factors]), []).append(words)
    kinds = {"faster": "in every race", "slower": "in none", "level": "level in all", "mixed": "in some"}
    parts = [f"{len(told[one])} {what} ({', '.join(told[one])})" for one, what in kinds.items() if one in told]
    return f"**Published orders** that hold here at {MIDDLE:g} dB: {'; '.join(parts)}." if parts else ""


def others(races: Sequence[Told]) -> str:
    """Whether our implementations do what others do, each along its own ladder."""
    told, level, count = [], 0, 0
    for family, theirs in SAME.items():
        here = (beside(family, theirs, race.many, race.few) for race in races if theirs not in race.over)
        found = [both for both in here if both]
        apart = [both.speeds[AT] for both in found if verdict(both.speeds) not in ("level", "open")]
        level, count = level + len(found) - len(apart), count + len(found)
        if apart:
            told.append(f"{family} {reach(apart)}")
    more = f"; at {MIDDLE:g} dB else {', '.join(told)}" if told else ""
    where = f"each along its own ladder, level in {level} of {count} comparisons at all four levels"
    return f"**Ours over the other libraries' own code**, {where}{more}." if count else ""


def by_time(races: Sequence[Told]) -> str:
    """How speed by time stands to speed by work."""
    told = []
    for race in races:
        shares = {
            one.family: time / one.middle.compute_speedup
            for one in race.caches
            if (time := race.by_time(one)) and one.middle.compute_speedup
        }
        if len(shares) > FIRST:
            least, most = (pick(shares, key=lambda family: shares[family]) for pick in (min, max))
            told.append(
                f"{race.title} {statistics.median(shares.values()):.0%}, from {shares[least]:.0%} ({least}) to "
                f"{shares[most]:.0%} ({most})"
            )
    if not told:
        return ""
    apart = [_apart(row["seconds"]) for race in races for row in race.times.values()]
    return (
        f"**Time**: of the speed by work, by time there is left, in the median, {'; '.join(told)}. Two measurements of "
        f"one setting are {statistics.median(apart):.0%} apart in the median, {max(apart):.0%} at most."
    )


def _apart(pairs: Sequence[Sequence[float]]) -> float:
    """How far the speedups of several pairs of an uncached and a cached run are apart: 0.1 for 10 %."""
    speedups = [uncached / own for uncached, own in pairs]
    return max(speedups) / min(speedups) - 1


def waits(races: Sequence[Told], methods: Mapping[str, Any]) -> str:
    """How many methods never wait for the device."""
    families = {one.family for race in races for one in race.standings if one.family in methods}
    count = {what: sum(methods[one]["reads"] == what for one in families) for what in ("never", "each forward")}
    return (
        f"**Waiting**: {count['never']} of {len(families)} methods never wait for a number from the device, "
        f"{count['each forward']} do in each forward, the others in computed or checked steps alone."
        if families
        else ""
    )


def _of_all(told: Sequence[str]) -> str:
    """One word for several races; empty where none could be told."""
    known = {one for one in told if one != "open"}
    return known.pop() if len(known) == 1 else "mixed" if known else "open"


def _rank(one: Standing) -> tuple[bool, float]:
    return one.speeds[AT].bound == "<=", -(one.speeds[AT].value or 0.0)
