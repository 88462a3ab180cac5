"""An output folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from bwcache.errors import SettingError, complaint

SUMMARY = "summary.json"
REPORT = "report.html"
RUN_FOLDER = re.compile(r"\d{2,}-.+")

CALLED: ContextVar[tuple[str, ...]] = ContextVar("CALLED", default=())
"""The words of the running call; empty where functions are called without the command."""


def command_line() -> str | None:
    """The running call as one writes it in a shell; None where there is none."""
    return shlex.join(CALLED.get()) or None


def check_target(target: Path, overwrite: bool) -> None:
    """Raise when results cannot or must not be put at ``target``.

    Raises:
        SettingError: it is a file, the current folder or one above it, holds other things than results, or holds
            results and ``overwrite`` is not set.
    """
    shown = repr(str(target))
    if target.exists() and not target.is_dir():
        raise _refused(f"a file at --out {shown}", "a folder", "name another one")
    if target == Path.cwd() or target in Path.cwd().parents:
        raise _refused(f"--out {shown}, the current folder or one above it", "a folder of its own", "name a new one")
    if not target.is_dir() or not any(target.iterdir()):
        return
    strangers = foreign_entries(target)
    if strangers:
        others = f"{strangers[0]!r}" + (f" and {len(strangers) - 1} more" if len(strangers) > 1 else "")
        raise _refused(f"{others} in --out {shown}", "an empty folder or earlier results alone", "name another folder")
    if not overwrite:
        raise _refused(f"earlier results in --out {shown}", "an empty folder", "add --overwrite or name another one")


def foreign_entries(folder: Path) -> list[str]:
    """What lies in a folder that this command did not write; all of it when there is no summary of ours."""
    names = sorted(entry.name for entry in folder.iterdir())
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        ours = isinstance(summary, dict) and {"model", "policy", "runs"} <= set(summary)
    except (OSError, ValueError):
        ours = False
    return [name for name in names if not (ours and _written_here(folder, name))]


def _written_here(folder: Path, name: str) -> bool:
    if name == REPORT:
        from bwcache.report.html import is_report

        return is_report(folder / name)
    return name == SUMMARY or RUN_FOLDER.fullmatch(name) is not None


@contextlib.contextmanager
def whole_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside ``target`` to write into; it becomes ``target`` when the block ends well.

    After an exception or an interrupt nothing is left of it, nor of folders made for it, and what was at ``target``
    before is as it was.

    Raises:
        SettingError: as `check_target`, and when nothing can be written there.
    """
    target = target.expanduser().resolve()
    check_target(target, overwrite)
    missing = [folder for folder in target.parents if not folder.exists()]
    part: Path | None = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
            part.chmod(0o777 & ~_umask())
        except OSError as error:
            found = f"--out {str(target)!r} that cannot be written ({error.strerror})"
            raise _refused(found, "a folder that can be", "name another one") from error
        yield part
        check_target(target, overwrite)
        _publish(part, target)
    except BaseException:
        with _uninterrupted():
            if part is not None:
                shutil.rmtree(part, ignore_errors=True)
            for folder in missing:  # from the deepest on; only while empty
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise


def _publish(part: Path, target: Path) -> None:
    """Put ``part`` in the place of ``target`` by renaming; earlier results go only when the new ones stand there."""
    with _uninterrupted():
        if not target.exists():
            part.rename(target)
            return
        old = part.with_suffix(".old")
        target.rename(old)
        try:
            part.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the moment that tidying up takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
