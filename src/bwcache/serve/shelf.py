"""The finished videos, as files: so many of the last ones."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from bwcache.core.files import whole_file
from bwcache.errors import SettingError, complaint


class Shelf:
    """A folder with a folder for each video.

    Args:
        folder: made if it is not there; None: one of its own, which goes with the shelf.
        room: so many finished videos stay.

    Raises:
        SettingError: it cannot be written.
    """

    def __init__(self, folder: Path | None = None, room: int = 100) -> None:
        self.room = room
        self._own = tempfile.TemporaryDirectory(prefix="bwcache-") if folder is None else None
        self._folder = Path(self._own.name) if folder is None and self._own else folder or Path()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self._folder / "try") as part:
                part.touch()
            (self._folder / "try").unlink()
        except OSError as error:
            found = f"a folder {str(folder)!r} that cannot be written ({error.strerror})"
            raise SettingError(complaint(found, "one that can be", "name another one")) from error

    def close(self) -> None:
        """Remove a folder of its own."""
        if self._own is not None:
            self._own.cleanup()

    def path(self, name: str, file: str) -> Path:
        """Return where a file of a video is, or was."""
        return self._folder / name / file

    async def put(self, name: str, files: dict[str, bytes]) -> None:
        """Keep the files of a video, each whole."""
        await asyncio.to_thread(self._put, name, files)

    async def remove(self, name: str) -> None:
        """Remove the files of a video."""
        await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)

    def _put(self, name: str, files: dict[str, bytes]) -> None:
        (self._folder / name).mkdir(exist_ok=True)
        for file, content in files.items():
            with whole_file(self._folder / name / file) as part:
                part.write_bytes(content)
