"""Pictures and videos that a pipeline is given: read from files, and told apart by their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.extras import need

if TYPE_CHECKING:
    from PIL.Image import Image

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".gif"}
"""How the names of video files end."""

LONGEST_PATH = 250
"""Letters of a path that a complaint repeats."""

MOST_FRAMES = 10_000
"""Of a video: more would fill the memory before the pipeline could refuse them."""


def read_media(path: Path) -> Image | list[Image]:
    """Return the frames of a video file, or the picture in any other file; raises as `read_picture`."""
    return read_video(path) if path.suffix.lower() in VIDEOS else read_picture(path)


def read_picture(path: Path) -> Image:
    """Return the picture in a file, in red, green and blue, turned as the camera says.

    Raises:
        SettingError: there is no such file, or it is no picture.
    """
    from PIL import Image, ImageOps

    _check_file(path, "a picture")
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # whatever a broken file, or one that is no picture, throws
        raise _unreadable(path, "a picture, such as PNG or JPEG", error) from error


def read_video(path: Path) -> list[Image]:
    """Return the frames of a video file, in red, green and blue.

    Raises:
        SettingError: there is no such file, it cannot be decoded, or it has more than `MOST_FRAMES`.
    """
    need("plots")
    import imageio_ffmpeg
    from PIL import Image

    _check_file(path, "a video")
    frames: list[Image.Image] = []
    reading = None
    try:
        reading = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
        size = next(reading)["size"]
        for pixels in reading:
            if len(frames) == MOST_FRAMES:
                found = f"{shown(str(path), LONGEST_PATH)} with more than {MOST_FRAMES} frames"
                raise SettingError(complaint(found, "a shorter video", "cut it"))
            frames.append(Image.frombytes("RGB", size, pixels))
    except SettingError:
        raise
    except Exception as error:  # whatever ffmpeg says of a broken file
        raise _unreadable(path, "a video that ffmpeg can read", error) from error
    finally:
        if reading is not None:
            reading.close()
    if not frames:
        raise SettingError(complaint(f"no frame in {shown(str(path), LONGEST_PATH)}", "a video", "name another file"))
    return frames


def recorded(value: Any) -> Any:
    """Return an argument as a record has it, ready for JSON: pictures as their size and a hash of their pixels."""
    from PIL.Image import Image

    if isinstance(value, Image):
        return f"picture {_size(value)}, {_digest([value])}"
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Image) for one in value):
        return f"{len(value)} frames {_size(value[0])}, {_digest(value)}"
    if isinstance(value, (list, tuple)):
        return [recorded(one) for one in value]
    if isinstance(value, dict):
        return {str(name): recorded(one) for name, one in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def _size(picture: Image) -> str:
    return f"{picture.width}x{picture.height}"


def _digest(pictures: Sequence[Image]) -> str:
    seen = hashlib.sha256()
    for picture in pictures:
        seen.update(f"{picture.mode} {_size(picture)} ".encode())
        seen.update(picture.tobytes())
    return seen.hexdigest()[:12]


def _check_file(path: Path, expected: str) -> None:
    try:
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        found = f"file {shown(str(path), LONGEST_PATH)} that cannot be read ({reason})"
        raise SettingError(complaint(found, expected, "name another file")) from error


def _unreadable(path: Path, expected: str, error: Exception) -> SettingError:
    reason = (" ".join(str(error).split()) or type(error).__name__).replace(str(path), path.name)
    found = f"file {shown(str(path), LONGEST_PATH)} that cannot be decoded ({reason[:120]})"
    return SettingError(complaint(found, expected, "name another file"))
