"""What the commands share that keep each of many runs: where they go, and how they end when interrupted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bwcache.errors import SettingError, complaint

INTERRUPTED = 130


def check_study(target: Path) -> Path:
    """The folder of a study as an absolute path; nothing is made yet.

    Raises:
        SettingError: it is a file, the current folder or one above it, cannot be written, or holds other things than
            a study.
    """
    from bwcache.study.folder import check_place

    target = target.expanduser().resolve()
    if target == Path.cwd() or target in Path.cwd().parents:
        found = f"--out {str(target)!r}, the current folder or one above it"
        raise SettingError(complaint(found, "a folder of its own", "name a new one"))
    check_place(target)
    return target


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
