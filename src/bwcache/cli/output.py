"""An output folder in which each finished thing appears whole, and from which nothing foreign is ever taken away."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from bwcache.cli.claims import claimed, uninterrupted
from bwcache.core.files import CLAIM, PART, read_json, write_json
from bwcache.errors import SettingError, complaint

SUMMARY = "summary.json"
REPORT = "report.html"

CALLED: ContextVar[tuple[str, ...]] = ContextVar("CALLED", default=())
"""The words of the running call; empty where functions are called without the command."""


def called(words: Sequence[str]) -> None:
    """Take note of the words of a call.

    Raises:
        SettingError: one of them is not UTF-8, so that it could neither be shown nor written down.
    """
    strange = next((word for word in words if not _is_text(word)), None)
    if strange is not None:
        found = f"the argument {strange!a}, which is not UTF-8"
        raise _refused(found, "text", "write it in UTF-8; for a folder of such a name, go into it or make a link to it")
    CALLED.set(("bwcache", *words))


def command_line() -> str | None:
    """The running call as one writes it in a shell; None where there is none."""
    return shlex.join(CALLED.get()) or None


def absolute(out: Path) -> Path:
    """Where an option points to, links followed.

    Raises:
        SettingError: there can be no such place.
    """
    try:
        place = out.expanduser().resolve()
        place.exists()
    except (OSError, RuntimeError) as error:  # too long, a loop of links, no such user
        found = f"--out {str(out)!r} that cannot be written ({getattr(error, 'strerror', None) or error})"
        raise _refused(found, "one that can be", "name another one") from error
    return place


def check_file(out: Path, overwrite: bool, kind: str) -> Path:
    """Return where a single JSON file goes; only an earlier one of its kind is ever replaced.

    Args:
        out: the option.
        overwrite: whether an earlier one may be replaced.
        kind: what the format of such a file begins with, such as "bwcache-plan".

    Raises:
        SettingError: something is there that must stay, or it lies in no folder.
    """
    target = absolute(out)
    if target.is_dir() or not target.parent.is_dir():
        what = "a folder" if target.is_dir() else "in a folder that is not there"
        raise _refused(f"--out {str(out)!r}, {what}", "a file", "name another one")
    _expect_writable(target.parent, out)
    if not target.exists():
        return target
    if not overwrite:
        raise _refused(f"a file at --out {str(out)!r}", "none yet", "add --overwrite or name another")
    try:
        content = read_json(target)
    except (OSError, RuntimeError, ValueError):
        content = None
    there = content.get("format") if isinstance(content, dict) else None
    if not isinstance(there, str) or not there.startswith(f"{kind}-"):
        expected = f"nothing, or an earlier {kind} file that --overwrite may replace"
        raise _refused(f"something else at --out {str(out)!r}", expected, "name another, or remove it yourself")
    return target


def _expect_writable(folder: Path, out: Path) -> None:
    """Raise where no file can be made: not after minutes of work, when it is to be written."""
    probe = folder / f"{PART}{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        found = f"--out {str(out)!r}, in a folder that cannot be written ({error.strerror})"
        raise _refused(found, "one that can be", "name another one") from error


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
    if not target.is_dir():
        return
    foreign = strangers(target, recorded(target))
    if foreign:
        others = f"{foreign[0]!r}" + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else "")
        raise _refused(f"{others} in --out {shown}", "an empty folder or earlier results alone", "name another folder")
    if not overwrite and any(entry.name != CLAIM for entry in target.iterdir()):
        raise _refused(f"earlier results in --out {shown}", "an empty folder", "add --overwrite or name another one")


def strangers(folder: Path, ours: set[str]) -> list[str]:
    """What lies in a folder, at any depth, that is not among `ours`, nor is a folder above one of them."""
    above = {str(parent) for name in ours for parent in Path(name).parents}
    return [
        name for name in _everything(folder) if name not in ours and not (name in above and _is_folder(folder, name))
    ]


def remove(folder: Path, ours: set[str]) -> None:
    """Remove the files that are `ours`, and the folders that are empty then; whatever else lies among them stays."""
    for name in sorted(ours & set(_everything(folder)), key=lambda name: name == SUMMARY):
        (folder / name).unlink(missing_ok=True)
    above = {parent for name in ours for parent in Path(name).parents} - {Path()}
    for inner in sorted(above, key=lambda inner: -len(inner.parts)):
        with contextlib.suppress(OSError):  # it is not empty, or not there
            (folder / inner).rmdir()


def recorded(folder: Path) -> set[str]:
    """The files of a folder, relative to it, that its summary lists as written by a command; without one, none."""
    from bwcache.report.files import written_files
    from bwcache.report.html import is_report

    try:
        ours = written_files(read_json(folder / SUMMARY))
    except (OSError, ValueError):
        return set()
    if is_report(folder / REPORT):
        ours.add(REPORT)
    return ours | {name for name in _everything(folder) if Path(name).name.startswith(PART)}


class Results:
    """An output folder that a command has claimed.

    Attributes:
        path: of the folder.
        finished: how many things were added.
    """

    def __init__(self, path: Path, unfinished: Path) -> None:
        self.path = path
        self.finished = 0
        self._unfinished = unfinished

    @contextlib.contextmanager
    def adding(self, name: str) -> Iterator[Path]:
        """Give a path for a folder; it appears in the results as ``name`` when the block ends.

        Earlier results go when the first one appears. After a failure to write all of it, it appears beside whatever
        is there, with the files that are whole.
        """
        part = self._unfinished / name
        try:
            yield part
        except Exception:
            if part.is_dir() and any(part.iterdir()):
                self._show(part)
            raise
        with uninterrupted():
            try:
                if not self.finished:
                    remove(self.path, recorded(self.path))
            finally:
                self._show(part)
        self.finished += 1

    def record(self, summary: dict[str, Any]) -> None:
        """Write the summary of all that was added so far."""
        write_json(self.path / SUMMARY, summary, indent=2)

    def _show(self, part: Path) -> None:
        part.rename(_free(self.path / part.name))


@contextlib.contextmanager
def results(target: Path, overwrite: bool = False) -> Iterator[Results]:
    """Claim ``target`` for results that appear one by one; what was finished stays, whatever happens after it.

    While nothing is finished, what was at ``target`` before is as it was.

    Raises:
        SettingError: as `check_target`, and when another command writes there or nothing can be written.
    """
    target = absolute(target)
    check_target(target, overwrite)
    with claimed(target) as unfinished:
        check_target(target, overwrite)
        made = Results(target, unfinished)
        try:
            yield made
        except BaseException:
            if made.finished:
                count = f"{made.finished} finished video{'s are' if made.finished > 1 else ' is'}"
                print(f"bwcache: {count} in {target}", file=sys.stderr)
            raise


def _everything(folder: Path) -> list[str]:
    """Files, links and folders at any depth, but for the claim; relative to the folder, sorted."""
    found = []
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and CLAIM in folders:
            folders.remove(CLAIM)
        found += [os.path.relpath(os.path.join(place, name), folder) for name in (*folders, *files)]
    return sorted(found)


def _is_folder(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() and not (folder / name).is_symlink()


def _free(path: Path) -> Path:
    """The path, or one beside it where something lies there."""
    count, free = 1, path
    while free.exists():
        count += 1
        free = path.with_name(f"{path.name}-{count}")
    return free


def _is_text(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
