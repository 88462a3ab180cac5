"""Makes the rows of a prompt file on one pipeline, and says what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bwcache.cli.progress import Bars
from bwcache.cli.rows import Asked, Rows
from bwcache.cli.settings import GenerateSettings
from bwcache.errors import BWCacheError, SettingError
from bwcache.fleet.figures import figures
from bwcache.fleet.folder import VideoFolder
from bwcache.fleet.prompt_file import Line, named, read_lines
from bwcache.fleet.table import row as table_row
from bwcache.fleet.worker import FailedRowError, Made, Row


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
        pipe, folder: with what it makes them, and where they go.
        done, failed: how many videos are known to be there, and how many cannot be made.
    """

    def __init__(self, pipe: Any, settings: GenerateSettings, rows: Rows, folder: VideoFolder, file: Path) -> None:
        from bwcache.measure.environment import environment

        self.pipe, self._settings, self._reader, self.folder, self._file = pipe, settings, rows, folder, file
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
            yield Row(line.number, self.folder.name(asked.parts), asked)

    def make(self, row: Row) -> Made:
        """Return the video of a row.

        Raises:
            FailedRowError: this row cannot be made.
        """
        import torch

        from bwcache.engine.made_for import other_weights
        from bwcache.measure.call import call
        from bwcache.measure.compare import call_cached
        from bwcache.report.files import write_generated

        settings, what = self._settings, f"line {row.number}"
        try:
            choices = self._reader.whole(row.asked)
            (request,) = choices.requests()
            if settings.cache:
                done, trace, notes = call_cached(
                    self.pipe,
                    choices.policy,
                    request,
                    what,
                    self.on_progress,
                    memory=settings.memory,
                    max_memory=settings.max_memory,
                )
            else:
                done, trace, notes = call(self.pipe, request, what, self.on_progress), None, ()
        except (BWCacheError, torch.OutOfMemoryError) as error:
            raise FailedRowError(" ".join(str(error).split())) from error
        policy = choices.policy if settings.cache else None
        threshold = getattr(policy, "threshold", None)
        other = None if choices.file is None else other_weights(self.pipe, choices.file)
        notes = notes if other is None else (*notes, other)
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
        name, grade = self.folder.name(asked.parts), asked.plan.settings.grade
        found = self.folder.figures(name)
        if found is not None:
            where = str(self.folder.place(name).relative_to(self.folder.path))
            return table_row(line.number, "made", found, folder=where, grade=grade)
        known = {key: asked.parts[key] for key in ("prompt", "seed", "steps", "policy", "guidance_scale")}
        reason = self.folder.failed(name)
        return table_row(line.number, "missing" if reason is None else "failed", known, failed=reason, grade=grade)


class Told:
    """Says what becomes of the rows, and counts."""

    def __init__(self, maker: Maker, bars: Bars, total: int) -> None:
        self._maker, self._bars, self._count = maker, bars, Count(total)
        maker.on_progress = bars.show
        bars.overall("all videos", 0, total)

    def __call__(self, row: Row, made: dict[str, Any] | None, failed: str | None) -> None:
        """Take note of a row that is settled."""
        self._count.take(self._bars, row.number, made, failed)
        self._maker.done, self._maker.failed = self._count.done, self._count.failed


class Count:
    """Counts the rows that are settled, each once, whoever tells of it.

    Attributes:
        done, failed: so many videos are there, and so many cannot be made.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._seen: set[int] = set()

    def take(self, bars: Bars, number: int, made: dict[str, Any] | None, failed: str | None) -> None:
        """Take note of a row, and say so.

        Args:
            bars: where it is said.
            number: of the row's line.
            made: the figures of its video, if it was made now.
            failed: why it cannot be made.
        """
        if number in self._seen:
            return
        self._seen.add(number)
        self.done += failed is None
        self.failed += failed is not None
        settled = self.done + self.failed
        bars.overall("all videos", settled, self.total)
        if failed is not None:
            bars.say(f"line {number} failed: {failed}")
        elif made is not None:
            reused = f", {made['reused']} of {made['steps']} steps reused" if "reused" in made else ""
            bars.say(f"{settled:>{len(str(self.total))}}/{self.total}  line {number}: {made['seconds']:.1f} s{reused}")
