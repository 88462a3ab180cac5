"""A model watched while it computes everything: what changes from step to step, and where the time goes.

Protocol. Changes: every video is made once, uncached, while all entries of every block's output are compared with those
of the step before; a few videos again with samples of the entries, for comparison. Times are taken on the first video,
in calls of their own, after a warm-up: some plain calls, calls with hooks around each block, and calls that take the
default samples, in turn. Operations are counted by torch's own counter in a short call. Each call's figures are kept in
the study's folder as soon as it is over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bwcache.core import Step
from bwcache.engine import attach
from bwcache.errors import BWCacheError, SettingError, complaint
from bwcache.measure.call import Call, OnProgress, Request, call
from bwcache.measure.compare import WARMUP_STEPS
from bwcache.measure.environment import describe_pipeline, environment
from bwcache.models import BlockStack, denoisers, resolve
from bwcache.policies import NeverReuse, Observation, Readings
from bwcache.study.folder import Folder
from bwcache.study.profile_curves import Fewer, fewer_blocks, indicator, judged
from bwcache.study.profile_results import Profile, Table, Watched, numbers
from bwcache.study.profile_times import Stopwatch, block_figures, time_split
from bwcache.study.study import Video, identity

KIND = "profile"
SHARES: tuple[Any, ...] = (0.5, 0.1, 0.01, "default")
"""Shares of the entries that are compared with all of them; "default" is what BWCache takes."""
ALL = 1.0

OnKept = Callable[[int, int, str], None]


def profile_identity(pipe: Any, request: Request, name: str | None = None) -> dict[str, Any]:
    """What all figures of a profile's folder must have in common: as of any study."""
    return {"command": "profile", **identity(pipe, request, name)}


def profile(
    pipe: Any,
    videos: Sequence[Video],
    request: Request,
    folder: Folder,
    *,
    shares_on: int = 2,
    repeats: int = 3,
    name: str | None = None,
    threshold: float | None = None,
    on_progress: OnProgress | None = None,
    on_kept: OnKept | None = None,
) -> Profile:
    """Watches a pipeline compute these videos.

    Args:
        pipe: a diffusers pipeline, loaded and on its device, uncompiled.
        videos: the videos; times are taken on the first.
        request: steps, sizes and guidance; its prompt and seed are those of each video.
        folder: where finished figures are, and new ones go; see `profile_identity`.
        shares_on: how many videos are made again with each share of the entries.
        repeats: how many calls of each kind are timed.
        name: of the model, for the record.
        threshold: published for the model or the default, for the record.
        on_progress: called at every step.
        on_kept: called with how many parts are in the folder, how many there are, and what the last one is.

    Raises:
        SettingError: no video, nothing to repeat, or something that the pipeline cannot make.
        NoBlocksFoundError: the pipeline has no denoiser that is known.
    """
    if not videos or repeats < 1 or shares_on < 0:
        found = f"{len(videos)} videos, {repeats} repeats, shares on {shares_on}"
        raise SettingError(complaint(found, "at least 1, 1 and 0", "ask for more"))
    watch = _Watching(pipe, tuple(videos), request, folder, min(shares_on, len(videos)), repeats, on_progress, on_kept)
    whole = [watch.changes(video, ALL) for video in watch.videos]
    watched = tuple(_watched(video, row) for video, row in zip(watch.videos, whole, strict=True))
    changes = np.stack([numbers(video.changes) for video in watched])
    timed, flops = watch.time(), watch.flops()
    return Profile(
        model=describe_pipeline(pipe, name),
        environment=environment(pipe) | request.record() | {"prompt": None, "videos": len(videos)},
        steps=tuple((step[0], step[1]) for step in whole[0]["steps"]),
        videos=watched,
        blocks=block_figures(watch.names, timed["splits"], flops["blocks"]),
        time=time_split(timed, statistics.median(row["indicator_seconds"] for row in whole)),
        fewer_blocks=tuple(fewer_blocks(changes)),
        fewer_entries=watch.fewer_entries(whole, indicator(changes)),
        threshold=threshold,
        notes=tuple(flops["notes"]),
    )


@dataclass(frozen=True)
class _Watch(NeverReuse):
    """`NeverReuse` that hands on what is measured."""

    note: Callable[[Observation], None] = field(default=lambda _: None, compare=False, repr=False)

    def refresh(self, observation: Observation, state: None) -> None:
        self.note(observation)

    def describe(self) -> dict[str, Any]:
        return {"name": "NeverReuse", "measures": self.measures}


class _Changes:
    """Gathers what is measured at each step, guidance branches pooled."""

    def __init__(self, stacks: Sequence[BlockStack]) -> None:
        self._sizes = {stack.name: len(stack.blocks) for stack in stacks}
        self._measured: dict[tuple[int, str], Readings | None] = {}
        self._steps: dict[int, Step] = {}

    def note(self, observation: Observation) -> None:
        """One forward of one denoiser."""
        step, denoiser = observation.step, observation.denoiser
        place = (step.index, denoiser)
        if place not in self._measured:
            self._measured[place] = observation.last
        else:
            before = self._measured[place]
            known = before is not None and observation.last is not None
            self._measured[place] = before + observation.last if known else None  # type: ignore[operator]
        self._steps[step.index] = step

    def table(self) -> Table:
        """One row per step, the blocks of all denoisers side by side."""
        return tuple(
            tuple(value for denoiser in self._sizes for value in self._row(index, denoiser))
            for index in sorted(self._steps)
        )

    def steps(self) -> list[tuple[float | None, float | None]]:
        """Timestep and sigma of each step."""
        return [(self._steps[index].timestep, self._steps[index].sigma) for index in sorted(self._steps)]

    def _row(self, index: int, denoiser: str) -> list[float | None]:
        measured = self._measured.get((index, denoiser))
        if measured is None:
            return [None] * self._sizes[denoiser]
        called = [bool(n or d) for n, d in zip(measured.numerators, measured.denominators, strict=True)]
        return [
            value if there and math.isfinite(value) else None
            for value, there in zip(measured.distances, called, strict=True)
        ]


@dataclass
class _Watching:
    """All calls of one profile: those whose figures are kept already are not made again."""

    pipe: Any
    videos: tuple[Video, ...]
    request: Request
    folder: Folder
    shares_on: int
    repeats: int
    on_progress: OnProgress | None
    on_kept: OnKept | None

    def __post_init__(self) -> None:
        self._stacks = [resolve(name, module) for name, module in denoisers(self.pipe).items()]
        self.names = tuple(f"{stack.name}/{block.name}" for stack in self._stacks for block in stack.blocks)
        self._warm = False
        self._done: set[tuple[Any, ...]] = set()
        self._total = len(self.videos) + len(SHARES) * self.shares_on + len(("time", "flops"))

    def changes(self, video: Video, share: Any) -> dict[str, Any]:
        """Of one video, with a share of the entries: timesteps, changes, seconds spent on measuring, bytes kept."""
        key = ("changes", share, video.prompt, video.seed)
        return self._kept(key, lambda: self._measure(video, share))

    def fewer_entries(self, whole: Sequence[dict[str, Any]], exact: Any) -> tuple[Fewer, ...]:
        """The shares of `SHARES` on the first videos, judged by all entries."""
        found = []
        for share in SHARES if self.shares_on else ():
            rows = [self.changes(video, share) for video in self.videos[: self.shares_on]]
            some = np.stack([indicator(numbers(row["changes"])) for row in rows])
            memory = rows[0]["kept_bytes"] / whole[0]["kept_bytes"] if whole[0]["kept_bytes"] else None
            found.append(judged(_entries(share), some, exact[: self.shares_on], memory))
        return tuple(one for one in found if one is not None)

    def time(self) -> dict[str, Any]:
        """Seconds of the calls on the first video."""
        video = self.videos[0]
        return self._kept(("time", self.repeats, video.prompt, video.seed), self._time)

    def flops(self) -> dict[str, Any]:
        """Operations of each block's call, or a note why they are not known."""
        return self._kept(("flops",), self._count)

    def _kept(self, key: tuple[Any, ...], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found = self.folder.figures(KIND, *key)
        if found is None:
            found = make()
            self.folder.keep_figures(KIND, found, *key)
        self._done.add(key)
        if self.on_kept:
            self.on_kept(len(self._done), self._total, _named(key))
        return found

    def _asked(self, video: Video, most: int | None = None) -> Request:
        steps = self.request.steps if most is None else min(most, self.request.steps)
        return dataclasses.replace(self.request, prompt=video.prompt, seed=video.seed, steps=steps)

    def _call(self, video: Video, what: str, most: int | None = None) -> Call:
        return call(self.pipe, self._asked(video, most), what, self.on_progress)

    def _warm_up(self) -> None:
        if not self._warm:
            self._call(self.videos[0], "warm-up", WARMUP_STEPS)
            self._warm = True

    def _measure(self, video: Video, share: Any) -> dict[str, Any]:
        self._warm_up()
        seen = _Changes(self._stacks)
        entries = "all entries" if share == ALL else "default sample" if share == "default" else f"sample={share:g}"
        what = f"video {self.videos.index(video) + 1}/{len(self.videos)}, {entries}"
        with attach(self.pipe, _Watch(share, seen.note), timing=True) as session:
            self._call(video, what)
        if not seen.table():
            raise BWCacheError(complaint("no computed step", "at least one", "report the pipeline"))
        return {
            "steps": seen.steps(),
            "changes": seen.table(),
            "indicator_seconds": math.fsum(event.indicator_seconds or 0.0 for event in session.trace.events),
            "kept_bytes": session.trace.peak_bytes,
        }

    def _time(self) -> dict[str, Any]:
        self._warm_up()
        plain, splits, samples = [], [], []
        for repeat in range(self.repeats):
            what = f"timing {repeat + 1}/{self.repeats}"
            plain.append(self._call(self.videos[0], f"{what}, plain").seconds)
            splits.append(self._split(f"{what}, blocks"))
            with attach(self.pipe, NeverReuse("default"), timing=True) as session:
                self._call(self.videos[0], f"{what}, indicator")
            samples.append(math.fsum(event.indicator_seconds or 0.0 for event in session.trace.events))
        return {"plain": plain, "splits": splits, "samples": samples}

    def _split(self, what: str) -> dict[str, Any]:
        """One call with hooks; where a block is never called itself, the engine takes the time of all together."""
        uncalled = any(block.hook is not None for stack in self._stacks for block in stack.blocks)
        with contextlib.ExitStack() as both:
            session = both.enter_context(attach(self.pipe, NeverReuse(), timing=True)) if uncalled else None
            watch = both.enter_context(Stopwatch(self.pipe, self._stacks))
            made = self._call(self.videos[0], what)
        inside = math.fsum(event.seconds or 0.0 for event in session.trace.events) if session else None
        return watch.split(made.seconds, inside)

    def _count(self) -> dict[str, Any]:
        from bwcache.measure.flops import count_flops

        try:
            found = count_flops(self.pipe, self._asked(self.videos[0], WARMUP_STEPS))
        except BWCacheError as error:
            return {"blocks": {}, "notes": [f"operations were not counted: {error}"]}
        blocks = {f"{name}/{block}": count for name, one in found.items() for block, count in one.blocks.items()}
        return {"blocks": blocks, "notes": []}


def _named(key: tuple[Any, ...]) -> str:
    if key[0] == "changes":
        _, share, prompt, seed = key
        return f"{prompt}, seed {seed}: changes, {_entries(share)}"
    return {"time": "times", "flops": "operations"}[key[0]]


def _entries(share: Any) -> str:
    return "default sample" if share == "default" else "all entries" if share == ALL else f"sample={share:g}"


def _watched(video: Video, row: dict[str, Any]) -> Watched:
    return Watched(video.prompt, video.seed, tuple(tuple(step) for step in row["changes"]))
