"""What the results say: exchanges of one idea, published orders, and each method beside another library's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.race.figures import Speed, Standing

Field = Sequence[Standing]

CLEAR = 1.03
"""So many times faster, or slower, counts as a difference."""


@dataclass(frozen=True)
class Exchange:
    """Two methods that differ in one thing.

    Attributes:
        one, other: their families; what is asked is how many times faster the first one is.
        what: in which.
    """

    one: str
    other: str
    what: str


EXCHANGES: Mapping[str, tuple[Exchange, ...]] = {
    "Forecast": (
        Exchange("fixed interval, linear", "fixed interval", "a line through two computed steps, for replay"),
        Exchange("Planned, linear", "Planned, replay", "the same on planned lists"),
        Exchange(
            "Planned",
            "Planned, linear",
            "a line that is cut short, and early what the window before missed, for the whole line",
        ),
        Exchange("TaylorSeer, lite", "fixed interval", "differences of computed steps, for replay"),
        Exchange("HiCache, lite", "TaylorSeer, lite", "Hermite polynomials, for powers"),
        Exchange("Spectrum, half a line", "Spectrum", "half a line mixed into the curve"),
        Exchange("AdaCache, MoReg", "AdaCache", "motion, in how long a window may be"),
    ),
    "Timetable": (
        Exchange("Planned, replay", "fixed interval", "a list planned from the noise levels, for equal gaps; replay"),
        Exchange("Planned, linear", "fixed interval, linear", "the same with a line"),
        Exchange("SpeCa, lite", "TaylorSeer, lite", "drafts that are checked, for equal gaps"),
    ),
    "Timetable and forecast": (
        Exchange(
            "Planned",
            "fixed interval",
            "a planned list, a line that is cut short, and early what windows missed; for equal gaps and replay",
        ),
        Exchange("MeanCache", "fixed interval", "a fitted list and mean velocities"),
        Exchange("Spectrum, half a line", "fixed interval", "growing windows, and a curve through all computed steps"),
    ),
    "Indicator": (
        Exchange("TeaCache", "fixed interval", "the time's embedding, for equal gaps; replay of all blocks"),
        Exchange("MagCache", "fixed interval", "a table of how residuals grow"),
        Exchange("BWCache", "fixed interval", "the outputs of the blocks"),
        Exchange("AdaCache", "fixed interval", "one attention and a codebook"),
        Exchange("EasyCache", "fixed interval", "the denoiser's input and output; replay of the denoiser"),
        Exchange("FirstBlock", "fixed interval", "the first block, which then runs in every step"),
        Exchange("SeaCache", "fixed interval, linear", "filtered latents; a line for the residual"),
    ),
    "Granularity": (
        Exchange("TaylorSeer", "TaylorSeer, lite", "every layer by itself, for all blocks as one"),
        Exchange("HiCache", "HiCache, lite", "the same in Hermite polynomials"),
        Exchange("SpeCa", "SpeCa, lite", "the same with checks"),
        Exchange("DBPrune", "FirstBlock", "each block by its own input, for all by the first block"),
        Exchange("Foresight", "fixed interval", "each block by itself"),
        Exchange("SmoothCache", "fixed interval", "each kind of layer by its own list"),
    ),
}
"""By the idea."""


@dataclass(frozen=True)
class Claim:
    """A published order: that one method is ahead of another.

    Attributes:
        ahead, behind: their families.
        source: whose table, and what is in it.
    """

    ahead: str
    behind: str
    source: str


CLAIMS: tuple[Claim, ...] = (
    Claim("BWCache", "TeaCache", "BWCache's paper: Open-Sora 27.1 dB at 1.61x against 22.4 at 1.50x"),
    Claim("BWCache", "FasterCache", "BWCache's paper: Open-Sora 27.1 dB at 1.61x against 24.0 at 1.35x"),
    Claim("MagCache", "TeaCache", "SenCache's paper: Wan 2.1 28.4 dB at 2.4x against 25.1 at 2.0x"),
    Claim("SenCache", "MagCache", "SenCache's paper: Wan 2.1 29.1 dB against 28.4, both at 2.4x"),
    Claim("EasyCache", "TeaCache", "VDE's paper: Wan 2.1 25.2 dB at 2.54x against 22.6 at 2.0x"),
    Claim("SeaCache", "TeaCache", "SeaCache's paper: HunyuanVideo 26.5 dB at 3.0x against 20.4 at 2.7x"),
    Claim("MeanCache", "TeaCache", "MeanCache's paper: HunyuanVideo 24.0 dB at 3.21x against 18.0 at 3.11x"),
    Claim("SpeCa", "TaylorSeer", "DPCache's paper: HunyuanVideo 20.1 dB at 4.05x against 18.5 at 3.87x"),
    Claim("Spectrum", "TaylorSeer", "Spectrum's paper: Wan 2.1 14B 22.8 dB at 3.40x against 19.5 at 3.01x"),
)

SAME: Mapping[str, str] = {
    "SeaCache": "SeaCache (diffusers)",
    "MagCache": "MagCache (diffusers)",
    "TaylorSeer": "TaylorSeer (diffusers)",
    "TaylorSeer, lite": "TaylorSeer lite (diffusers)",
    "FirstBlock": "First-Block Cache (diffusers)",
    "PyramidAttentionBroadcast": "PAB (diffusers)",
    "FasterCache": "FasterCache (diffusers)",
    "DBCache": "DBCache (cache-dit)",
}
"""Of a family, another library's implementation of the same method."""


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same videos.

    Attributes:
        one, other: the names under which they ran.
        speeds: at each level, how many times faster the first one is.
        videos: how many.
    """

    one: str
    other: str
    speeds: tuple[Speed, ...]
    videos: int


def ran(family: str, field: Field) -> str:
    """Return the name under which a method ran: natively, else another library's; empty: neither."""
    there = {standing.family for standing in field}
    return next((name for name in (family, SAME.get(family, "")) if name in there), "")


def beside(one: str, other: str, *fields: Field) -> Comparison | None:
    """Return how many times faster a family is than another one, in the first field in which both made the same videos.

    Args:
        one, other: their names.
        fields: those of the many videos, then those of the few.
    """
    for field in fields:
        found = {standing.family: standing for standing in field}
        if one in found and other in found and found[one].places == found[other].places:
            pairs = zip(found[one].speeds, found[other].speeds, strict=True)
            return Comparison(one, other, tuple(own.over(rival) for own, rival in pairs), found[one].videos)
    return None


def compared(one: str, other: str, *fields: Field) -> Comparison | None:
    """Return two methods as they ran, natively or by another library, beside each other; fields as in `beside`."""
    found = (beside(ran(one, field), ran(other, field), field) for field in fields)
    return next((pair for pair in found if pair is not None), None)


def verdict(found: Sequence[Speed]) -> str:
    """Return in a word how two methods stand: "faster", "slower", "level", "mixed"; "open" where nothing is known."""
    sides = {side for side in map(_side, found) if side}
    if not sides:
        return "open"
    told = sides - {"level"}
    return "level" if not told else "mixed" if len(told) > 1 else told.pop()


def _side(one: Speed) -> str:
    """Which way a factor goes, as far as what bounds it lets that be told; empty where it does not."""
    if one.value is None or one.bound == "~":
        return ""
    if one.value >= CLEAR and one.bound != "<=":
        return "faster"
    if one.value <= 1 / CLEAR and one.bound != ">=":
        return "slower"
    return "" if one.bound else "level"


def stands(found: Comparison) -> str:
    """Return whether the published order of two methods holds: "holds", "does not hold", "level", "mixed" or "open"."""
    told = verdict(found.speeds)
    return {"faster": "holds", "slower": "does not hold"}.get(told, told)
