"""Runs what is missing of a study: every method on every prompt and seed, from the same noise.

Protocol: a short warm-up, uncached and under each policy; then prompt after prompt. A prompt's uncached video is
computed once and kept. Its time is taken anew before every few methods, in the same process, so that uncached and
cached calls stand beside each other; the order of the methods is another one for every prompt. Decoded frames are
compared, before any compression.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bwcache.engine.free import expect_uncached
from bwcache.engine.made_for import scheduler_settings
from bwcache.errors import BWCacheError
from bwcache.former_names import takes_former_fields
from bwcache.measure.call import Call, OnProgress, Progress, Request, call
from bwcache.measure.compare import WARMUP_STEPS
from bwcache.measure.environment import describe_pipeline, environment
from bwcache.measure.frames import Frames
from bwcache.measure.quality import psnr, quality
from bwcache.study.blocks import BlockWork
from bwcache.study.fingerprint import fingerprint
from bwcache.study.folder import Cell, Folder
from bwcache.study.methods import Method, Seen

BESIDE = 6
"""So many methods run between two uncached calls, where times are wanted."""


@dataclass(frozen=True)
class Video:
    """One video: a prompt and the seed of its noise."""

    prompt: str
    seed: int


@takes_former_fields
@dataclass(frozen=True)
class Study:
    """Methods, and the videos that each of them makes.

    Attributes:
        methods: all with different labels.
        videos: what is made.
        request: steps, sizes and guidance; its prompt and seed are those of each video.
    """

    methods: tuple[Method, ...]
    videos: tuple[Video, ...]
    request: Request

    def asked(self, video: Video) -> Request:
        """The full request for one video."""
        return dataclasses.replace(self.request, prompt=video.prompt, seed=video.seed)

    def __len__(self) -> int:
        return len(self.methods) * len(self.videos)


OnCell = Callable[[Cell], None]


def identity(pipe: Any, request: Request, name: str | None = None) -> dict[str, Any]:
    """What all cells of a study must have in common: model, versions, precision, machine, and the request.

    The request's seed is the first one of a study; its prompt does not count.
    """
    seen = environment(pipe)
    asked = request.record()
    asked.pop("prompt")
    return {
        "model": describe_pipeline(pipe, name) | {"schedule": schedule_of(pipe)},
        "packages": seen["packages"],
        "dtype": seen["dtype"],
        "device": seen["device"],
        "request": asked,
        "weights": fingerprint(pipe),
    }


def schedule_of(pipe: Any) -> dict[str, Any]:
    """Return the settings of a pipeline's scheduler."""
    return scheduler_settings(getattr(pipe, "scheduler", None))


def count_finished(study: Study, folder: Folder) -> int:
    """How many of the runs are in the folder already; those that failed are tried again."""
    return sum(_finished(folder, method, video) is not None for method in study.methods for video in study.videos)


def _finished(folder: Folder, method: Method, video: Video) -> Cell | None:
    """The cell of a run that did not fail, as the method would write it now."""
    former = method.former
    found = folder.cell(*_key(method, video)) or (former and folder.cell(*former, video.prompt, video.seed))
    if found is None or found.failed is not None:
        return None
    return dataclasses.replace(found, family=method.family, label=method.label, settings=method.settings())


def run_study(
    pipe: Any,
    study: Study,
    folder: Folder,
    *,
    on_progress: OnProgress | None = None,
    on_cell: OnCell | None = None,
    on_found: OnCell | None = None,
    beside: int | None = BESIDE,
) -> list[Cell]:
    """Runs what the folder does not hold yet; returns all cells, method after method.

    Args:
        pipe: a diffusers pipeline, loaded and on its device.
        study: what takes part on which videos.
        folder: where finished cells are, and new ones go.
        on_progress: called at every step.
        on_cell: called with each cell as it is finished, and with those that were found.
        on_found: called with these in its place.
        beside: so many methods run between two uncached calls. None: times do not matter. Then no uncached call is made
            of a video that is kept, but for one: all videos are as much work, as those of one size are.

    Raises:
        SettingError: the pipeline cannot make what is asked for.
        AttachError: a cache is at work on it already, so that nothing would be uncached.
    """
    expect_uncached(pipe)
    cells: dict[tuple[str, Video], Cell] = {}
    work: BlockWork | None = None
    full: int | None = None
    rehearsed: set[str] = set()
    for turn, video in enumerate(study.videos):
        missing = []
        for method in study.methods:
            found = _finished(folder, method, video)
            if found is None:
                missing.append(method)
                continue
            cells[method.label, video] = found
            if tell := on_found or on_cell:
                tell(cells[method.label, video])
        if not missing:
            continue
        work = work or _warm_up(pipe, study.asked(video), on_progress)
        rehearsed |= _rehearse(pipe, missing, study.asked(video), rehearsed, on_progress)
        start = turn * BESIDE % len(missing)
        label = f"video {turn + 1}/{len(study.videos)}"
        one = _OneVideo(pipe, study.asked(video), folder, work, label, on_progress, full)
        for method, cell in one.run(missing[start:] + missing[:start], beside):
            folder.keep(cell, *_key(method, video))
            cells[method.label, video] = cell
            if on_cell:
                on_cell(cell)
        full = one.full
    return [cells[method.label, video] for method in study.methods for video in study.videos]


def reference(
    pipe: Any, request: Request, folder: Folder, what: str = "uncached", on_progress: OnProgress | None = None
) -> Frames:
    """The uncached video of a request: the kept one, or a new one that is kept from now on."""
    frames = folder.reference(request.prompt, request.seed)
    if frames is None:
        frames = call(pipe, request, what, on_progress).frames
        folder.keep_reference(frames, request.prompt, request.seed)
    return frames


class _OneVideo:
    """The methods that are missing on one video.

    Attributes:
        full: operations inside the blocks of an uncached call; None where none was counted yet.
    """

    def __init__(
        self,
        pipe: Any,
        request: Request,
        folder: Folder,
        work: BlockWork,
        label: str,
        on_progress: OnProgress | None,
        full: int | None,
    ) -> None:
        self._pipe, self._request, self._folder = pipe, request, folder
        self._work, self._label, self._on_progress = work, label, on_progress
        self.full = full
        self._uncached: Call | None = None
        self._frames: Frames
        self._doubt: tuple[str, ...] = ()

    def run(self, methods: Sequence[Method], beside: int | None) -> Any:
        """Each method with its cell, as it is finished; an uncached call before every `beside` of them."""
        kept = self._folder.reference(self._request.prompt, self._request.seed)
        every = beside or len(methods)
        if beside is None and kept is not None and self.full is not None:
            self._frames, every = kept, 0
        for place, method in enumerate(methods):
            if every and place % every == 0:
                self._time_uncached()
            what = f"{self._label}, {method.label}"
            if self._on_progress:
                self._on_progress(Progress(what, "sampling", 0, self._request.steps))
            yield method, self._one(method, what)

    def _time_uncached(self) -> None:
        with self._work.counted() as done:
            made = self._uncached = call(self._pipe, self._request, f"{self._label}, uncached", self._on_progress)
        self.full = done()
        kept = self._folder.reference(self._request.prompt, self._request.seed)
        if kept is None:
            self._folder.keep_reference(made.frames, self._request.prompt, self._request.seed)
            kept = made.frames
        self._frames = kept
        apart = psnr(kept, made.frames)
        if not math.isinf(apart):
            self._doubt = (f"two uncached calls from one seed are {apart:.1f} dB apart: the pipeline's own noise",)

    def _one(self, method: Method, what: str) -> Cell:
        whose: dict[str, Any] = {
            "family": method.family,
            "label": method.label,
            "settings": method.settings(),
            "prompt": self._request.prompt,
            "seed": self._request.seed,
        }
        try:
            with method.at_work(self._pipe) as seen, self._work.counted() as done:
                made = call(self._pipe, method.request(self._request), what, self._on_progress)
        except BWCacheError as error:
            return Cell(**whose, failed=str(error))
        return Cell(**whose, **self._figures(made, seen, done()))

    def _figures(self, made: Call, seen: Seen, done: int) -> dict[str, Any]:
        measured = quality(self._frames, made.frames)
        trace = seen.trace
        doubt = self._doubt
        if trace and trace.reuse_rate == 0 and not measured.identical:
            doubt = (
                *doubt,
                "nothing was reused, and yet the video differs: the pipeline's own noise, not the cache's doing",
            )
        return {
            "compute": done / self.full if self.full else None,
            "steps": trace.steps if trace else None,
            "computed": trace.computed if trace else None,
            "reuse_rate": trace.reuse_rate if trace else None,
            "seconds": made.seconds,
            "denoise_seconds": made.denoise_seconds,
            "uncached_seconds": self._uncached.seconds if self._uncached else None,
            "uncached_denoise_seconds": self._uncached.denoise_seconds if self._uncached else None,
            "quality": {name: value for name, value in measures(measured).items() if not _infinite(value)},
            "identical": measured.identical,
            "kept_bytes": seen.kept_bytes,
            "notes": (*seen.notes, *doubt),
            "unmeasured": measured.notes,
        }


def measures(measured: Any) -> dict[str, float | None]:
    """The numbers of a `Quality`, by name."""
    return {
        field.name: getattr(measured, field.name)
        for field in dataclasses.fields(measured)
        if field.type in ("float", "float | None")
    }


def _warm_up(pipe: Any, request: Request, on_progress: OnProgress | None) -> BlockWork:
    """A short call: what is slow only once is over, and what each layer stands for is known."""
    few = dataclasses.replace(request, steps=min(request.steps, WARMUP_STEPS))
    call(pipe, few, "warm-up", on_progress)
    return BlockWork.of(pipe, lambda: call(pipe, dataclasses.replace(few, steps=1), "warm-up", on_progress))


def _rehearse(
    pipe: Any, methods: Sequence[Method], request: Request, known: set[str], on_progress: OnProgress | None
) -> set[str]:
    """A short call under the first of each family that can be shortened: kernels are built at their first use."""
    families = {one.family: one for one in reversed(methods) if one.family not in known}
    for family, method in families.items():
        few = method.rehearsal(dataclasses.replace(request, steps=min(request.steps, WARMUP_STEPS)))
        if few is not None:
            with contextlib.suppress(BWCacheError), method.at_work(pipe):
                call(pipe, few, f"warm-up under {family}", on_progress)
    return set(families)


def _key(method: Method, video: Video) -> tuple[Any, ...]:
    return method.family, method.settings(), video.prompt, video.seed


def _infinite(value: float | None) -> bool:
    return value is not None and math.isinf(value)
