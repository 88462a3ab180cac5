"""Takes rows that nobody works on, until every one of them is made or known to fail.

Any number of workers do this in one folder, on any number of machines. They never speak to each other. A worker writes
one video while it makes the next one, so that a GPU does not wait for the encoding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwcache.core.files import write_json
from bwcache.errors import BWCacheError
from bwcache.fleet.folder import VIDEO, VideoFolder

TRIES = 5
"""So many workers may die over one row; then it is the row."""
HELD = 1000
"""So many rows that others hold are remembered; with more of them the file is read once more."""
NAP = 2.0
"""Seconds to wait at most before looking again for rows that others hold."""


@dataclass(frozen=True)
class Row:
    """A row of a prompt file.

    Attributes:
        number: of its line, from 1.
        name: of its video.
        asked: what the video is made of; known to whoever makes it.
    """

    number: int
    name: str
    asked: Any = None


@dataclass(frozen=True)
class Made:
    """A video that is made and not yet kept.

    Attributes:
        figures: what is to be said of it, ready for JSON.
        write: writes its files into a folder, in another thread than the one that made it; may be called again.
    """

    figures: dict[str, Any]
    write: Callable[[Path], None]


class FailedRowError(BWCacheError):
    """A row cannot be made; the others can."""


class Worker:
    """One who makes videos in a folder.

    Args:
        folder: where they go.
        rows: yields all rows of the prompt file, anew at each call.
        make: makes the video of a row; raises `FailedRowError` where this row cannot be made.
        on_row: told of each row that is found made, was made, or failed: the row, its figures if this worker made it,
            and the reason if it failed. In order, and of those that this worker made in the thread that writes.
        on_wait: told who holds a row while there is nothing else to do; once for each.
    """

    def __init__(
        self,
        folder: VideoFolder,
        rows: Callable[[], Iterable[Row]],
        make: Callable[[Row], Made],
        on_row: Callable[[Row, dict[str, Any] | None, str | None], None] | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._folder, self._rows, self._make = folder, rows, make
        self._on_row, self._on_wait = on_row, on_wait
        self._began = folder.leases.now()
        self._said = ""
        self._written: Future[None] | None = None

    def run(self) -> None:
        """Return when every row is made or has failed since this worker began."""
        with ThreadPoolExecutor(1, "writer") as self._writer:
            self._settle_all()
            self._finish_writing()

    def _settle_all(self) -> None:
        waiting: list[Row] | None = None
        again = False
        while True:
            held: list[Row] = []
            overflow = False
            for row in self._rows() if waiting is None else waiting:
                if not self._settle(row, tell=not again):
                    overflow = overflow or len(held) == HELD
                    held += [row] if not overflow else []
            if not held:
                return
            worked = waiting is not None and len(held) < len(waiting)
            waiting, again = (None, True) if overflow else (held, False)
            if not worked:
                self._finish_writing()
                self._wait(held[0])

    def _settle(self, row: Row, tell: bool) -> bool:
        """Whether there is nothing more to do for a row; it is made first, unless somebody else works on it."""
        if self._is_settled(row, tell):
            return True
        lease = self._folder.leases.take(row.name)
        if lease is None:
            return False
        with ExitStack() as held:
            held.enter_context(lease)
            if self._is_settled(row, tell):  # in the moment before
                return True
            made = self._work(row, lease.number)
            if made is not None:
                self._finish_writing()
                self._written = self._writer.submit(self._write, row, made, held.pop_all())
        return True

    def _finish_writing(self) -> None:
        """Wait for what is being written; raise what went wrong with it."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _is_settled(self, row: Row, tell: bool) -> bool:
        there = self._folder.has(row.name)
        reason = None if there else self._folder.failed(row.name, self._began)
        if tell and (there or reason is not None):
            self._finish_writing()
            self._tell(row, None, reason)
        return there or reason is not None

    def _work(self, row: Row, deaths: int) -> Made | None:
        """The video of a row; None where it failed."""
        if self._written is not None and self._written.done():
            self._finish_writing()
        try:
            if deaths >= TRIES:
                raise FailedRowError(f"{deaths} workers died over this row")
            return self._make(row)
        except FailedRowError as error:
            self._folder.fail(row.name, str(error))
            self._finish_writing()
            self._tell(row, None, str(error))
            return None

    def _write(self, row: Row, made: Made, held: ExitStack) -> None:
        """Keep the video of a row that is held until then."""
        with held:
            self._keep(row, made)
            self._folder.forgive(row.name)
            self._tell(row, made.figures, None)

    def _keep(self, row: Row, made: Made) -> None:
        for last in (False, True):
            try:
                with self._folder.adding(row.name) as part:
                    made.write(part)
                    write_json(part / VIDEO, made.figures)
                break
            except FileNotFoundError:  # taken for dead, and tidied up after
                if last:
                    raise

    def _tell(self, row: Row, figures: dict[str, Any] | None, reason: str | None) -> None:
        if self._on_row is not None:
            self._on_row(row, figures, reason)

    def _wait(self, row: Row) -> None:
        who = self._folder.leases.holder(row.name)
        said = f"waiting for line {row.number}, which is held by {who}"
        if who is not None and self._on_wait is not None and said != self._said:
            self._on_wait(said)
            self._said = said
        time.sleep(min(NAP, self._folder.leases.seconds / 10))
