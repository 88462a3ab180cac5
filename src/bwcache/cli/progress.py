"""Bars for loading, sampling and decoding; plain lines where standard error is not a terminal."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from bwcache.measure.call import Progress


class Bars:
    """Shows one bar at a time: what is being made, and how far it is.

    with Bars() as bars:
        with bars.loading("shapes"):
            ...
        compare(..., on_progress=bars.show)
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console or Console(stderr=True, markup=False, emoji=False)
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bars.add_task("", total=None, visible=False, count="")
        self._shown = ("", "")
        self._all: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def loading(self, name: str) -> Iterator[None]:
        """A moving bar while a model is read."""
        self._restart(f"loading {name}", None)
        yield

    def show(self, progress: Progress) -> None:
        """Show a report of a measurement."""
        shown = (progress.what, progress.stage)
        if shown != self._shown:
            self._shown = shown
            endless = progress.total == 1  # nothing is known of how far a decoder is
            self._restart(f"{progress.what}: {progress.stage}", None if endless else progress.total)
            if not self._live and self._all is None and progress.stage == "sampling":
                self._console.print(
                    f"{progress.what}: {progress.total} steps", highlight=False, markup=False, emoji=False
                )
        count = f"{progress.done}/{progress.total} steps" if progress.total > 1 else ""
        self._bars.update(self._task, completed=progress.done, count=count)

    def writing(self, name: str) -> None:
        """A moving bar while files are written."""
        self._restart(f"writing {name}", None)

    def overall(self, what: str, done: int, total: int) -> None:
        """A second bar below: how much of everything is done. Calls are no longer told line by line from here on."""
        if self._all is None:
            self._all = self._bars.add_task(f"{what:<36}", total=total, count="")
        self._bars.update(self._all, completed=done, count=f"{done}/{total}")

    def say(self, line: str) -> None:
        """A line that stays, above the bars."""
        self._console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _restart(self, text: str, total: int | None) -> None:
        self._bars.remove_task(self._task)
        self._task = self._bars.add_task(f"{text:<36}", total=total, count="")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and advice away while a model is read: one line on stderr is one line."""
    import diffusers.utils.logging
    import transformers.utils.logging

    both = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in both]
    for library in both:
        library.set_verbosity(50)
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level in zip(both, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
