"""What a profile found, to JSON and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bwcache.core.kinds import (
    NUMBER,
    OBJECT,
    POSITIVE,
    SHARE,
    TEXT,
    WHOLE,
    Kind,
    between,
    check,
    count,
    each,
    fault,
    maybe,
)
from bwcache.errors import SettingError, complaint
from bwcache.measure import results
from bwcache.study.profile_curves import THRESHOLDS, Array, Fewer, Shape, below, indicator, shape, spread

FORMAT = "bwcache-profile-1"

Table = tuple[tuple[float | None, ...], ...]
"""`[S][N]`: the change of each block at each step; None where it was not measured, or is not finite."""

UNCACHED_PARTS = {name: words for name, words in results.TIME_PARTS.items() if name != "indicator"}
"""Where the time of a call that computes everything goes, in its order, and how that is called."""


@dataclass(frozen=True)
class Watched:
    """One uncached video.

    Attributes:
        prompt, seed: of the video.
        changes: of each block at each step against the step before, guidance branches pooled.
    """

    prompt: str
    seed: int
    changes: Table

    @property
    def indicator(self) -> tuple[float | None, ...]:
        """The mean over the blocks at each step."""
        return plain(indicator(numbers(self.changes)))


@dataclass(frozen=True)
class BlockFigures:
    """One block.

    Attributes:
        name: with the denoiser's, such as "transformer/blocks.0".
        seconds: of one call, median; None where blocks cannot be timed one by one.
        share: of the denoising time, 0..1; None as above.
        flops: of one call; None where it could not be counted.
    """

    name: str
    seconds: float | None = None
    share: float | None = None
    flops: int | None = None


@dataclass(frozen=True)
class TimeSplit:
    """Where the seconds of one uncached call went: of the middle one of some repeats, so that the parts add up.

    Attributes:
        before: until the first forward of the denoiser: text encoding, drawing the noise.
        blocks: inside the blocks.
        rest: inside the denoiser's forwards, outside of the blocks.
        between: between the forwards: guidance, the scheduler's steps.
        after: from the end of the last forward: decoding, and the scheduler's last step.
        indicator: what taking and comparing BWCache's default samples adds to a call that computes every step.
        exact_indicator: the same with all entries, as in the paper; None where it was not measured.
        plain_seconds: the whole call without the hooks that took these times, median.
        forwards: of the denoiser.
        repeats: how many calls were timed.
    """

    before: float
    blocks: float
    rest: float
    between: float
    after: float
    indicator: float
    exact_indicator: float | None
    plain_seconds: float
    forwards: int
    repeats: int

    @property
    def seconds(self) -> float:
        """The whole call."""
        return self.before + self.denoising + self.after

    @property
    def denoising(self) -> float:
        """From the first forward to the end of the last one."""
        return self.blocks + self.rest + self.between

    @property
    def block_share(self) -> float:
        """Of the denoising time, 0..1."""
        return self.blocks / self.denoising

    def saved(self, reuse_rate: float) -> tuple[float, float]:
        """What reusing this share of the steps can save at most: shares of the denoising time and of the whole call.

        A reused step skips its blocks and its indicator; nothing else gets faster, and computed steps pay for the
        indicator.
        """
        spared = reuse_rate * self.blocks - (1 - reuse_rate) * self.indicator
        return spared / self.denoising, spared / self.seconds

    def explain(self, reused: int, steps: int) -> str:
        """Why so many reused steps save no more time than they do, in words."""
        denoising, whole = self.saved(reused / steps)
        inside = self.blocks / self.seconds
        return (
            f"{reused} of {steps} steps reused ({_percent(reused / steps)}) save at most {_percent(denoising)} of the "
            f"denoising time and {_percent(whole)} of the whole call: the blocks are {_percent(inside)} of the call, "
            f"and the other {_percent(1 - inside)} runs in every step, or once per video, whatever is reused"
        )


@dataclass(frozen=True)
class Profile:
    """A model watched while it computes everything.

    Attributes:
        model: as `describe_pipeline` has it.
        environment: machine, versions, and the request.
        steps: one (timestep, sigma) per step, None where unknown.
        videos: what was watched.
        blocks: in call order; those of several denoisers one after the other.
        time: where the time went.
        fewer_blocks: subsets of the blocks, judged by all of them.
        fewer_entries: shares of the entries, judged by all of them.
        threshold: published for the model or the default, for orientation.
        notes: what could not be measured, and why.
    """

    model: dict[str, Any]
    environment: dict[str, Any]
    steps: tuple[tuple[float | None, float | None], ...]
    videos: tuple[Watched, ...]
    blocks: tuple[BlockFigures, ...]
    time: TimeSplit
    fewer_blocks: tuple[Fewer, ...] = ()
    fewer_entries: tuple[Fewer, ...] = ()
    threshold: float | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def changes(self) -> Array:
        """`[V, S, N]`, not-a-number where nothing was measured."""
        return np.stack([numbers(video.changes) for video in self.videos])

    @cached_property
    def curves(self) -> Array:
        """`[V, S]`: the indicator of each video."""
        return indicator(self.changes)

    @cached_property
    def spread(self) -> tuple[Array, Array, Array]:
        """Of the curves at each step `[S]`: median, 10 % and 90 % quantile over the videos."""
        return spread(self.curves)

    @cached_property
    def shape(self) -> Shape:
        """Of the median curve."""
        return shape(self.spread[0])

    @property
    def alike(self) -> int:
        """Videos whose own curve has the shape of the median one."""
        own = [shape(curve) for curve in self.curves]
        return sum((one.kind, one.arm) == (self.shape.kind, self.shape.arm) for one in own)

    @property
    def below(self) -> tuple[float, ...]:
        """For each threshold, the share of all steps whose indicator is below it."""
        return below(self.curves)

    def to_json(self) -> dict[str, Any]:
        """Plain values, no infinities; with what follows from the rest (curve, shape) for other readers."""
        median, low, high = map(plain, self.spread)
        return {
            "format": FORMAT,
            **dataclasses.asdict(self),
            "thresholds": THRESHOLDS,
            "below": self.below,
            "curve": {"median": median, "low": low, "high": high},
            "shape": {**dataclasses.asdict(self.shape), "words": str(self.shape), "videos_alike": self.alike},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Profile:
        """The reverse.

        Raises:
            SettingError: it is no such profile.
        """
        try:
            _check(content)
            return cls(
                model=content["model"],
                environment=content["environment"],
                steps=tuple((step[0], step[1]) for step in content["steps"]),
                videos=tuple(_watched(video) for video in content["videos"]),
                blocks=tuple(BlockFigures(**block) for block in content["blocks"]),
                time=TimeSplit(**content["time"]),
                fewer_blocks=tuple(map(_fewer, content["fewer_blocks"])),
                fewer_entries=tuple(map(_fewer, content["fewer_entries"])),
                threshold=content["threshold"],
                notes=tuple(content["notes"]),
            )
        except ValueError as error:
            raise SettingError(
                complaint(
                    f"a profile that cannot be read ({error})",
                    f"format {FORMAT}",
                    "make it again with 'bwcache profile'",
                )
            ) from error

    def rows(self) -> Iterator[list[Any]]:
        """A table for CSV, the header first: one row per video and step."""
        yield ["prompt", "seed", "step", "timestep", "sigma", "indicator", *(block.name for block in self.blocks)]
        for video in self.videos:
            for i, (changes, mean) in enumerate(zip(video.changes, video.indicator, strict=True)):
                yield [video.prompt, video.seed, i, *self.steps[i], mean, *changes]


def numbers(table: Sequence[Sequence[float | None]]) -> Array:
    """A table as an array; None is not-a-number."""
    return np.array([[np.nan if value is None else value for value in row] for row in table], dtype=float)


def plain(values: Array) -> tuple[float | None, ...]:
    """An array `[S]` as plain values; what is not finite is None."""
    return tuple(value if math.isfinite(value) else None for value in values.tolist())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


_MAYBE = maybe(NUMBER)
_FORMAT = Kind(f"format {FORMAT}", lambda value: isinstance(value, str) and value == FORMAT)
_PROFILE = {
    "format": _FORMAT,
    **dict.fromkeys(("model", "environment", "time"), OBJECT),
    "steps": each(Kind("timestep and sigma", lambda value: each(_MAYBE).holds(value) and len(value) == 2), least=1),
    **dict.fromkeys(("videos", "blocks"), each(OBJECT, least=1)),
    **dict.fromkeys(("fewer_blocks", "fewer_entries"), each(OBJECT)),
    "threshold": _MAYBE,
    "notes": each(TEXT),
}
_VIDEO = {"prompt": TEXT, "seed": WHOLE, "changes": each(each(maybe(between(0))))}
_BLOCK = {"name": TEXT, **dict.fromkeys(("seconds", "share"), maybe(between(0))), "flops": maybe(WHOLE)}
_TIME = {
    **dict.fromkeys(("before", "rest", "between", "after", "indicator"), between(0)),
    **dict.fromkeys(("blocks", "plain_seconds"), POSITIVE),
    "exact_indicator": maybe(between(0)),
    **dict.fromkeys(("forwards", "repeats"), count(1)),
}
_FEWER = {
    "what": TEXT,
    "blocks": maybe(each(WHOLE)),
    **dict.fromkeys(("memory", "correlation"), _MAYBE),
    "agreement": Kind(
        "a share of each threshold", lambda value: each(SHARE).holds(value) and len(value) == len(THRESHOLDS)
    ),
    **dict.fromkeys(("ratio", "error"), NUMBER),
    "videos": count(1),
}


def _check(content: Any) -> None:
    """Raise `ValueError` for what is no profile: a field missing, of another kind, or tables of another size."""
    wrong = fault(content, _PROFILE)
    if wrong is not None:
        raise ValueError(wrong)
    check(content["time"], _TIME, where="time")
    for name, kinds in (("blocks", _BLOCK), ("fewer_blocks", _FEWER), ("fewer_entries", _FEWER)):
        for row in content[name]:
            check(row, kinds, where=name)
    for video in content["videos"]:
        wrong = fault(video, _VIDEO, where="videos")
        if wrong is not None:
            raise ValueError(wrong)
        sizes = [len(step) for step in video["changes"]]
        if sizes != [len(content["blocks"])] * len(content["steps"]):
            raise ValueError("videos.changes of another size than steps times blocks")


def _watched(row: dict[str, Any]) -> Watched:
    return Watched(row["prompt"], row["seed"], tuple(tuple(step) for step in row["changes"]))


def _fewer(row: dict[str, Any]) -> Fewer:
    blocks = None if row["blocks"] is None else tuple(row["blocks"])
    return Fewer(**{**row, "blocks": blocks, "agreement": tuple(row["agreement"])})
