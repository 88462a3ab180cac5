"""``bwcache generate --prompts``: the rows of a file, by as many workers as are started on one folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bwcache.cli.choices import check_options
from bwcache.cli.loading import read
from bwcache.cli.output import absolute
from bwcache.cli.progress import Bars, quiet_libraries
from bwcache.cli.rows import Asked, Rows
from bwcache.cli.settings import GenerateSettings
from bwcache.cli.studies import resumable
from bwcache.errors import BWCacheError, SettingError, complaint
from bwcache.fleet.figures import figures
from bwcache.fleet.folder import VideoFolder, check_target
from bwcache.fleet.prompt_file import Line, named, read_lines
from bwcache.fleet.table import row as table_row
from bwcache.fleet.table import write_table
from bwcache.fleet.worker import FailedRowError, Made, Row, Worker

SHOWN = 3
"""So many bad lines are told."""
FAILED = 1


def run_many(settings: GenerateSettings) -> None:
    """Make the videos of a prompt file as the options say."""
    assert settings.prompts is not None
    file = settings.prompts.absolute()
    out = _target(settings)
    check_options(settings)
    from bwcache.measure.load import check_device, small_files
    from bwcache.measure.skeleton import check_known, pipeline_kind, skeleton
    from bwcache.report.videos import check_rate

    device = check_device(settings.device, settings.offload)
    with quiet_libraries():
        model = small_files(settings.model)
        kind = pipeline_kind(model)
        check_known(model, kind)
        rows = Rows(settings, kind, device, skeleton(model), file.parent)
        first, total = _check(file, rows, settings.skip_bad)
    check_rate(first.plan.choices.fps)
    with Bars() as bars:
        pipe = read(settings, device, bars)
        rows = Rows(settings, kind, device, pipe, file.parent)
        folder = VideoFolder(out, identity(pipe), settings.lease)
        maker = Maker(pipe, settings, rows, folder, file)
        with resumable(out, lambda: f"{maker.done} of {total} videos"):
            Worker(folder, maker.rows, maker.make, Told(maker, bars, total), bars.say).run()
        folder.tidy()
        bars.writing("the table")
        write_table(out, maker.table())
    _end(maker, total, out)


def identity(pipe: Any) -> dict[str, Any]:
    """Return what all videos of a folder have in common, whatever the name of the model and the machine are."""
    from bwcache.measure.environment import describe_pipeline, environment
    from bwcache.study.fingerprint import fingerprint
    from bwcache.study.study import schedule_of

    seen = environment(pipe)
    model = describe_pipeline(pipe, None)
    del model["name"]
    return {
        "model": model | {"schedule": schedule_of(pipe)},
        "packages": seen["packages"],
        "dtype": seen["dtype"],
        "weights": fingerprint(pipe),
    }


class Maker:
    """Makes the video of a row, on one pipeline.

    Attributes:
        done, failed: how many videos are known to be there, and how many cannot be made.
    """

    def __init__(self, pipe: Any, settings: GenerateSettings, rows: Rows, folder: VideoFolder, file: Path) -> None:
        from bwcache.measure.environment import environment

        self._pipe, self._settings, self._reader, self._folder, self._file = pipe, settings, rows, folder, file
        self._device = environment(pipe)["device"]
        self.done = self.failed = 0
        self.on_progress: Any = None

    def rows(self) -> Iterator[Row]:
        """Yield all rows that can work.

        Raises:
            SettingError: one cannot, and is not to be left out.
        """
        for line in read_lines(self._file):
            try:
                asked = self._reader.read(line)
            except BWCacheError as error:
                if not self._settings.skip_bad:
                    raise SettingError(f"line {line.number} of {named(self._file)}: {error}") from error
                continue
            yield Row(line.number, self._folder.name(asked.parts), asked)

    def make(self, row: Row) -> Made:
        """Return the video of a row.

        Raises:
            FailedRowError: this row cannot be made.
        """
        import torch

        from bwcache.measure.call import call
        from bwcache.measure.compare import call_cached
        from bwcache.report.files import write_generated

        settings, what = self._settings, f"line {row.number}"
        try:
            choices = self._reader.whole(row.asked)
            (request,) = choices.requests()
            if settings.cache:
                done, trace, notes = call_cached(
                    self._pipe,
                    choices.policy,
                    request,
                    what,
                    self.on_progress,
                    memory=settings.memory,
                    max_memory=settings.max_memory,
                )
            else:
                done, trace, notes = call(self._pipe, request, what, self.on_progress), None, ()
        except (BWCacheError, torch.OutOfMemoryError) as error:
            raise FailedRowError(" ".join(str(error).split())) from error
        policy = choices.policy if settings.cache else None
        threshold = getattr(policy, "threshold", None)
        found = figures(request, policy, done, trace, notes) | {"device": self._device}

        def write(folder: Path) -> None:
            write_generated(folder, request.prompt, done.frames, trace, choices.fps, threshold)

        return Made(found, write)

    def table(self) -> Iterator[dict[str, Any]]:
        """Yield what became of each row of the file."""
        for line in read_lines(self._file):
            try:
                asked = self._reader.read(line)
            except BWCacheError as error:
                yield table_row(line.number, "bad", failed=str(error))
                continue
            yield self._outcome(line, asked)

    def _outcome(self, line: Line, asked: Asked) -> dict[str, Any]:
        name = self._folder.name(asked.parts)
        found = self._folder.figures(name)
        if found is not None:
            where = str(self._folder.place(name).relative_to(self._folder.path))
            return table_row(line.number, "made", found, folder=where)
        known = {key: asked.parts[key] for key in ("prompt", "seed", "steps", "policy", "guidance_scale")}
        reason = self._folder.failed(name)
        return table_row(line.number, "missing" if reason is None else "failed", known, failed=reason)


class Told:
    """Says what becomes of the rows, and counts."""

    def __init__(self, maker: Maker, bars: Bars, total: int) -> None:
        self._maker, self._bars, self._total = maker, bars, total
        maker.on_progress = bars.show
        bars.overall("all videos", 0, total)

    def __call__(self, row: Row, made: dict[str, Any] | None, failed: str | None) -> None:
        """Take note of a row that is settled."""
        maker = self._maker
        maker.done += failed is None
        maker.failed += failed is not None
        self._bars.overall("all videos", maker.done + maker.failed, self._total)
        if failed is not None:
            self._bars.say(f"line {row.number} failed: {failed}")
        elif made is not None:
            reused = f", {made['reused']} of {made['steps']} steps reused" if "reused" in made else ""
            count = f"{maker.done + maker.failed:>{len(str(self._total))}}/{self._total}"
            self._bars.say(f"{count}  line {row.number}: {made['seconds']:.1f} s{reused}")


def _target(settings: GenerateSettings) -> Path:
    """Where the videos go; nothing is made yet."""
    out = absolute(settings.out)
    if settings.prompt:
        raise _refused("both --prompt and --prompts", "one of them", "leave one out")
    if settings.overwrite:
        found = "--overwrite with --prompts, whose folder others may be working on"
        raise _refused(found, "a folder to go on with", "leave it out, or remove the folder yourself")
    if out == Path.cwd() or out in Path.cwd().parents:
        found = f"--out {str(out)!r}, the current folder or one above it"
        raise _refused(found, "a folder of its own", "name a new one")
    if check_target(out) is not None and not settings.resume:
        raise _refused(f"videos in --out {str(out)!r}", "none yet, with --no-resume", "name another folder")
    return out


def _check(file: Path, rows: Rows, skip_bad: bool) -> tuple[Asked, int]:
    """The first row that can work, and how many there are.

    Raises:
        SettingError: there is none; or some cannot work, and are not to be left out.
    """
    first: Asked | None = None
    good = bad = 0
    faults: list[str] = []
    for line in read_lines(file):
        try:
            asked = rows.read(line)
        except BWCacheError as error:
            bad += 1
            if len(faults) < SHOWN:
                faults.append(f"line {line.number}: {error}")
            continue
        good += 1
        first = first or asked
    name = named(file)
    told = " | ".join(faults) + (f" | and {bad - SHOWN} more" if bad > SHOWN else "")
    if first is None:
        found = f"no row in {name} that can work ({told})" if bad else f"no prompt in {name}"
        raise _refused(found, "one prompt per line", "write at least one into the file")
    if bad and not skip_bad:
        found = f"{bad} bad row{'s' * (bad > 1)} in {name} ({told})"
        raise _refused(found, "rows that can work", "mend them, or add --skip-bad to make the others")
    if bad:
        print(f"bwcache: {bad} of {good + bad} rows are left out: {told}", file=sys.stderr)
    return first, good


def _end(maker: Maker, total: int, out: Path) -> None:
    print(f"{maker.done} of {total} videos are in {out}, and table.csv has a line for each row")
    if maker.failed:
        print(f"bwcache: {maker.failed} of {total} videos could not be made: table.csv says why", file=sys.stderr)
        sys.exit(FAILED)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
