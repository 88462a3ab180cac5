"""Runs what is missing of a study: every contender on every prompt and seed, from the same noise.

Protocol: a short warm-up, uncached and under each policy; then prompt after prompt. A prompt's uncached video is
computed once and kept. Its time is taken anew before every few contenders, in the same process, so that uncached and
cached calls stand beside each other; the order of the contenders is another one for every prompt. Decoded frames are
compared, before any compression.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bwcache.errors import BWCacheError
from bwcache.measure.call import Call, OnProgress, Progress, Request, call
from bwcache.measure.compare import WARMUP_STEPS
from bwcache.measure.environment import describe_pipeline, environment
from bwcache.measure.frames import Frames
from bwcache.measure.quality import psnr, quality
from bwcache.study.blocks import BlockWork
from bwcache.study.contenders import Contender, Seen
from bwcache.study.fingerprint import fingerprint
from bwcache.study.folder import Cell, Folder

BESIDE = 6
"""So many contenders run between two uncached calls."""


@dataclass(frozen=True)
class Unit:
    """One video: a prompt and the seed of its noise."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Race:
    """What takes part on which videos.

    Attributes:
        contenders: all with different labels.
        units: the videos.
        request: steps, sizes and guidance; its prompt and seed are those of each unit.
    """

    contenders: tuple[Contender, ...]
    units: tuple[Unit, ...]
    request: Request

    def asked(self, unit: Unit) -> Request:
        """The full request for one video."""
        return dataclasses.replace(self.request, prompt=unit.prompt, seed=unit.seed)

    def __len__(self) -> int:
        return len(self.contenders) * len(self.units)


OnCell = Callable[[Cell], None]


def identity(pipe: Any, request: Request, name: str | None = None) -> dict[str, Any]:
    """What all cells of a study must have in common: model, versions, precision, machine, and the request.

    The request's seed is the first one of a study; its prompt does not count.
    """
    seen = environment(pipe)
    asked = request.record()
    asked.pop("prompt")
    return {
        "model": describe_pipeline(pipe, name) | {"schedule": _schedule(pipe)},
        "packages": seen["packages"],
        "dtype": seen["dtype"],
        "device": seen["device"],
        "request": asked,
        "weights": fingerprint(pipe),
    }


def _schedule(pipe: Any) -> dict[str, Any]:
    """The scheduler's settings: another shift makes other videos, also one that was set afterwards."""
    scheduler: Any = getattr(pipe, "scheduler", None)
    settings = dict(getattr(scheduler, "config", {}))
    if hasattr(scheduler, "shift"):
        settings["shift"] = scheduler.shift
    plain = (str, int, bool, type(None))
    return {
        name: value if isinstance(value, plain) else repr(value)
        for name, value in settings.items()
        if not name.startswith("_")
    }


def held(field: Race, folder: Folder) -> int:
    """How many of the runs are in the folder already; those that failed are tried again."""
    return sum(_finished(folder, contender, unit) is not None for contender in field.contenders for unit in field.units)


def _finished(folder: Folder, contender: Contender, unit: Unit) -> Cell | None:
    found = folder.cell(*_key(contender, unit))
    return found if found is not None and found.failed is None else None


def race(
    pipe: Any,
    field: Race,
    folder: Folder,
    *,
    on_progress: OnProgress | None = None,
    on_cell: OnCell | None = None,
    on_found: OnCell | None = None,
) -> list[Cell]:
    """Runs what the folder does not hold yet; returns all cells, contender after contender.

    Args:
        pipe: a diffusers pipeline, loaded and on its device.
        field: what takes part on which videos.
        folder: where finished cells are, and new ones go.
        on_progress: called at every step.
        on_cell: called with each cell as it is finished, and with those that were found.
        on_found: called with these in its place.

    Raises:
        SettingError: the pipeline cannot make what is asked for.
    """
    cells: dict[tuple[str, Unit], Cell] = {}
    work: BlockWork | None = None
    rehearsed: set[str] = set()
    for turn, unit in enumerate(field.units):
        missing = []
        for contender in field.contenders:
            found = _finished(folder, contender, unit)
            if found is None:
                missing.append(contender)
                continue
            cells[contender.label, unit] = dataclasses.replace(found, label=contender.label)
            if tell := on_found or on_cell:
                tell(cells[contender.label, unit])
        if not missing:
            continue
        work = work or _warm_up(pipe, field.asked(unit), on_progress)
        rehearsed |= _rehearse(pipe, missing, field.asked(unit), rehearsed, on_progress)
        start = turn * BESIDE % len(missing)
        heat = _Heat(pipe, field.asked(unit), folder, work, f"video {turn + 1}/{len(field.units)}", on_progress)
        for contender, cell in heat.run(missing[start:] + missing[:start]):
            folder.keep(cell, *_key(contender, unit))
            cells[contender.label, unit] = cell
            if on_cell:
                on_cell(cell)
    return [cells[contender.label, unit] for contender in field.contenders for unit in field.units]


def reference(
    pipe: Any, request: Request, folder: Folder, what: str = "uncached", on_progress: OnProgress | None = None
) -> Frames:
    """The uncached video of a request: the kept one, or a new one that is kept from now on."""
    frames = folder.reference(request.prompt, request.seed)
    if frames is None:
        frames = call(pipe, request, what, on_progress).frames
        folder.keep_reference(frames, request.prompt, request.seed)
    return frames


class _Heat:
    """The contenders that are missing on one video."""

    def __init__(
        self, pipe: Any, request: Request, folder: Folder, work: BlockWork, label: str, on_progress: OnProgress | None
    ) -> None:
        self._pipe, self._request, self._folder = pipe, request, folder
        self._work, self._label, self._on_progress = work, label, on_progress
        self._uncached: Call
        self._full: int
        self._frames: Frames
        self._doubt: tuple[str, ...] = ()

    def run(self, contenders: Sequence[Contender]) -> Any:
        """Each contender with its cell, as it is finished."""
        for place, contender in enumerate(contenders):
            if place % BESIDE == 0:
                self._time_uncached()
            what = f"{self._label}, {contender.label}"
            if self._on_progress:
                self._on_progress(Progress(what, "sampling", 0, self._request.steps))
            yield contender, self._one(contender, what)

    def _time_uncached(self) -> None:
        with self._work.counted() as done:
            self._uncached = call(self._pipe, self._request, f"{self._label}, uncached", self._on_progress)
        self._full = done()
        kept = self._folder.reference(self._request.prompt, self._request.seed)
        if kept is None:
            self._folder.keep_reference(self._uncached.frames, self._request.prompt, self._request.seed)
            kept = self._uncached.frames
        self._frames = kept
        apart = psnr(kept, self._uncached.frames)
        if not math.isinf(apart):
            self._doubt = (f"two uncached calls from one seed are {apart:.1f} dB apart: the pipeline's own noise",)

    def _one(self, contender: Contender, what: str) -> Cell:
        whose: dict[str, Any] = {
            "family": contender.family,
            "label": contender.label,
            "settings": contender.settings(),
            "prompt": self._request.prompt,
            "seed": self._request.seed,
        }
        try:
            with contender.at_work(self._pipe) as seen, self._work.counted() as done:
                made = call(self._pipe, contender.request(self._request), what, self._on_progress)
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
            "compute": done / self._full if self._full else None,
            "steps": trace.steps if trace else None,
            "computed": trace.computed if trace else None,
            "reuse_rate": trace.reuse_rate if trace else None,
            "seconds": made.seconds,
            "denoise_seconds": made.denoise_seconds,
            "uncached_seconds": self._uncached.seconds,
            "uncached_denoise_seconds": self._uncached.denoise_seconds,
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
    pipe: Any, contenders: Sequence[Contender], request: Request, known: set[str], on_progress: OnProgress | None
) -> set[str]:
    """A short call under the first of each family that can be shortened: kernels are built at their first use."""
    families = {one.family: one for one in reversed(contenders) if one.family not in known}
    for family, contender in families.items():
        few = contender.rehearsal(dataclasses.replace(request, steps=min(request.steps, WARMUP_STEPS)))
        if few is not None:
            with contextlib.suppress(BWCacheError), contender.at_work(pipe):
                call(pipe, few, f"warm-up under {family}", on_progress)
    return set(families)


def _key(contender: Contender, unit: Unit) -> tuple[Any, ...]:
    return contender.family, contender.settings(), unit.prompt, unit.seed


def _infinite(value: float | None) -> bool:
    return value is not None and math.isinf(value)
