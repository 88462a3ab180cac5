"""A folder of many videos: what they have in common, and each of them whole or not there.

    videos.json                what all have in common: model, weights, versions
    videos/AB/ABCD…/           one video: `video.mp4`, `trace.jsonl` and what is said of it, in `video.json`
    failed/ABCD….json          why a row cannot be made
    leases/                    who works on what
    unfinished/                what is being written
    table.csv                  a line for each row of the prompt file

A video is named by all that it depends on. It is written beside, brought to the disk and renamed into place: whoever
comes second finds it there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bwcache.core.files import PART, read_json, write_json, write_once
from bwcache.errors import SettingError, complaint
from bwcache.fleet.leases import SECONDS, Leases
from bwcache.study.folder import check_same, key
from bwcache.study.folder import check_target as check_results

FORMAT = "bwcache-videos-1"
RECORD = "videos.json"
VIDEO = "video.json"
FOLDERS = ("videos", "failed", "leases", "unfinished")


class VideoFolder:
    """Many videos on disk.

    Args:
        path: made if it is not there.
        identity: what all videos have in common; a folder of another identity is refused.
        seconds: without a sign from a worker until it counts as dead.

    Raises:
        SettingError: the folder is of another model or version (the difference is named), holds other things, or cannot
            be written.
    """

    def __init__(self, path: Path, identity: dict[str, Any], seconds: float = SECONDS) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self._whose = key(self.identity)
        check_target(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_once(path / RECORD, json.dumps({"format": FORMAT, **self.identity}, indent=1) + "\n")
            for name in FOLDERS:
                (path / name).mkdir(exist_ok=True)
        except OSError as error:
            found = f"a folder {str(path)!r} that cannot be written ({error.strerror})"
            raise SettingError(complaint(found, "one that can be", "name another one")) from error
        check_same(path, check_target(path) or {}, self.identity)
        self.leases = Leases(path / "leases", seconds)

    def name(self, *parts: Any) -> str:
        """Return the name of the video that depends on these parts, and on what all have in common."""
        return key(self._whose, *parts)

    def place(self, name: str) -> Path:
        """Return where a video is, or will be."""
        return self.path / "videos" / name[:2] / name

    def has(self, name: str) -> bool:
        """Return whether a video is there."""
        return (self.place(name) / VIDEO).exists()

    def figures(self, name: str) -> dict[str, Any] | None:
        """Return what is said of a video; None where it is not there or damaged."""
        return _read(self.place(name) / VIDEO)

    @contextlib.contextmanager
    def adding(self, name: str) -> Iterator[Path]:
        """Give a path for the folder of a video; when the block ends it is there, unless another one was before.

        After an exception nothing is left.
        """
        part = self.path / "unfinished" / f"{name}-{secrets.token_hex(4)}"
        try:
            yield part
            for file in part.iterdir():
                _to_disk(file)
            self._put(part, name)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _put(self, part: Path, name: str) -> None:
        place = self.place(name)
        place.parent.mkdir(exist_ok=True)
        try:
            part.rename(place)
        except OSError:
            if self.has(name):  # somebody else made it
                return
            place.rename(self.path / "unfinished" / f"{name}-{secrets.token_hex(4)}")  # what a person took to pieces
            part.rename(place)

    def fail(self, name: str, reason: str) -> None:
        """Take note of why a row cannot be made."""
        write_json(self.path / "failed" / f"{name}.json", {"reason": reason})

    def failed(self, name: str, since: float = 0.0) -> str | None:
        """Return why a row could not be made, if that was since a moment of the file system's time; else None."""
        file = self.path / "failed" / f"{name}.json"
        try:
            if file.stat().st_mtime < since:
                return None
        except FileNotFoundError:
            return None
        return str((_read(file) or {}).get("reason", "a reason that cannot be read"))

    def forgive(self, name: str) -> None:
        """Forget that a row could not be made: now it is there."""
        (self.path / "failed" / f"{name}.json").unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what workers left that died: files older than a lease, and leases on videos that are there."""
        old = self.leases.now() - self.leases.seconds
        for part in (self.path / "unfinished").iterdir():
            if _written(part) < old:
                shutil.rmtree(part, ignore_errors=True)
        for name in self.leases.names():
            if self.has(name):
                self.leases.forget(name)
        for folder in (self.path, self.path / "leases", self.path / "failed"):
            for part in folder.glob(f"{PART}*"):
                if _written(part) < old:
                    part.unlink(missing_ok=True)


def cells(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the place of each video in a folder, and what is said of it; sorted by name."""
    for place in sorted(path.glob("videos/*/*")):
        figures = _read(place / VIDEO)
        if figures is not None:
            yield place, figures


def check_target(path: Path) -> dict[str, Any] | None:
    """Return what the videos in a folder have in common; None where there are none yet. Makes nothing.

    Raises:
        SettingError: it is a file, holds other things, or lies where nothing can be written.
    """
    return check_results(path, RECORD, FORMAT, "videos of a prompt file")


def _to_disk(file: Path) -> None:
    """Wait until a file is on the disk, so that not even a machine that stops leaves an empty one under its name."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _written(path: Path) -> float:
    """When a file, or something in a folder, was last written, by the file system's time."""
    found = float("inf")  # where somebody takes it away in this moment
    with contextlib.suppress(OSError):
        found = max(one.stat().st_mtime for one in (path, *(path.iterdir() if path.is_dir() else ())))
    return found
