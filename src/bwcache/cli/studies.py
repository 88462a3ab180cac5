"""What the commands share that keep each of many runs: where they go, and how they end when interrupted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bwcache.cli.claims import claimed
from bwcache.cli.output import absolute
from bwcache.cli.progress import Bars
from bwcache.core.files import remove_parts
from bwcache.errors import SettingError, complaint

INTERRUPTED = 130


def check_study(target: Path) -> Path:
    """The folder of a study as an absolute path; nothing is made yet.

    Raises:
        SettingError: it is a file, the current folder or one above it, cannot be written, or holds other things than
            a study.
    """
    from bwcache.study.folder import check_target

    target = absolute(target)
    if target == Path.cwd() or target in Path.cwd().parents:
        found = f"--out {str(target)!r}, the current folder or one above it"
        raise SettingError(complaint(found, "a folder of its own", "name a new one"))
    check_target(target)
    return target


@contextlib.contextmanager
def claimed_study(out: Path) -> Iterator[None]:
    """Claim a study's folder, and remove what killed processes left unfinished in it. Raises as `claimed`."""
    with claimed(out):
        remove_parts(out)
        yield


def check_twice(prompts: Sequence[str]) -> None:
    """Raises `SettingError` for a prompt that is there twice: two videos of one prompt and seed are one."""
    twice = next((text for place, text in enumerate(prompts) if text in prompts[:place]), None)
    if twice is not None:
        found = f"the prompt {twice!r} twice"
        raise SettingError(complaint(found, "each prompt once", "use --seeds for more videos of one prompt"))


def run_missing(pipe: Any, study: Any, folder: Any, bars: Bars) -> Any:
    """Run what a folder does not hold yet of a `Study`; each finished run becomes a line. Return all cells."""
    from bwcache.report.studies import cell_line
    from bwcache.study.study import count_finished, run_study

    total, before = len(study), count_finished(study, folder)
    done = 0
    bars.overall("all runs", 0, total)
    bars.say(f"{len(study.methods)} settings on {len(study.videos)} videos: {total} runs, {before} of them finished")
    for name in folder.damaged:
        bars.say(f"{name} is damaged: that run is made again")

    def found(cell: Any) -> None:
        nonlocal done
        done += 1
        bars.overall("all runs", done, total)

    def finished(cell: Any) -> None:
        found(cell)
        bars.say(f"{done:>{len(str(total))}}/{total}  {cell_line(cell)}")

    with resumable(folder.path, lambda: f"{count_finished(study, folder)} of {total} runs"):
        return run_study(pipe, study, folder, on_progress=bars.show, on_cell=finished, on_found=found)


@contextlib.contextmanager
def resumable(out: Path, finished: Callable[[], str]) -> Iterator[None]:
    """Ends the process after Ctrl-C with one line that says what is kept and how to go on.

    Args:
        out: where finished runs are kept.
        finished: what to call them, such as "12 of 96 runs".
    """
    try:
        yield
    except KeyboardInterrupt:
        line = f"bwcache: interrupted; {finished()} are kept in {out}; the same command goes on from there"
        print(" ".join(line.split()), file=sys.stderr)
        sys.exit(INTERRUPTED)
