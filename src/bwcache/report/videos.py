"""Video files: H.264 in MP4, which every browser and player shows."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from subprocess import PIPE

import numpy as np

from bwcache.core.files import whole_file
from bwcache.errors import SettingError, complaint
from bwcache.extras import need
from bwcache.measure.frames import Frames
from bwcache.measure.results import Pair
from bwcache.report.pictures import amplification, as_pictures, difference, difference_label, enlargement, labelled_row

USUAL_RATE = 16
ENCODING = (
    *("-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "14", "-preset", "medium"),
    *("-movflags", "+faststart", "-f", "mp4"),
)


def write_video(path: Path, frames: Frames, fps: int) -> None:
    """Write float frames [F, H, W, 3] in 0..1; small ones enlarged by repeating pixels."""
    write_pictures(path, as_pictures(frames, enlargement(frames.shape[1])), fps)


def write_side_by_side(path: Path, pair: Pair, fps: int) -> None:
    """Write uncached, cached and their amplified difference beside each other, each under its label."""
    enlarge = enlargement(pair.uncached.shape[1])
    factor = amplification(pair.uncached, pair.cached)
    label = difference_label(pair.uncached, pair.cached, factor)
    columns = {
        "uncached": as_pictures(pair.uncached, enlarge),
        "cached": as_pictures(pair.cached, enlarge),
        label: as_pictures(difference(pair.uncached, pair.cached, factor), enlarge),
    }
    write_pictures(path, labelled_row(columns), fps)


def write_difference(path: Path, pair: Pair, fps: int) -> None:
    """Write the amplified difference alone."""
    factor = amplification(pair.uncached, pair.cached)
    write_video(path, difference(pair.uncached, pair.cached, factor), fps)


def write_pictures(path: Path, pictures: np.ndarray, fps: int) -> None:
    """Write pictures, uint8 [F, H, W, 3], as yuv420p at a quality that hides the compression; whole or not at all.

    Raises:
        OSError: ffmpeg failed, or what it wrote does not decode to as many pictures.
    """
    even = _even(pictures)
    with whole_file(path) as part:
        _ffmpeg([*_raw(even.shape, fps), *ENCODING, str(part)], even)
        count = count_frames(part)
        if count != len(even):
            raise OSError(f"a video of {count} frames at {str(path)!r}, of {len(even)} that ffmpeg was given")


def count_frames(path: Path) -> int:
    """Decode a whole video file and return its number of frames. Raises `OSError` where it does not decode."""
    report = _ffmpeg(["-xerror", "-i", str(path), "-fps_mode", "passthrough", "-progress", "pipe:1", "-f", "null", "-"])
    return max((int(number) for number in re.findall(rb"^frame=\s*(\d+)", report, re.MULTILINE)), default=0)


def check_rate(fps: int) -> None:
    """Write a video that nobody sees.

    Raises:
        SettingError: ffmpeg cannot write one of so many frames a second here.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_pictures(Path(folder) / "try.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps)
        except OSError as error:
            found = f"--fps {fps}, with which no video can be written ({error})"
            raise SettingError(complaint(found, "a rate that ffmpeg can write", f"try {USUAL_RATE}")) from error


def _raw(shape: tuple[int, ...], fps: int) -> list[str]:
    """How ffmpeg reads pictures [F, H, W, 3] from its standard input."""
    size = f"{shape[2]}x{shape[1]}"
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", size, "-framerate", str(fps), "-i", "pipe:0"]


def _ffmpeg(arguments: Sequence[str], pictures: Iterable[np.ndarray] = ()) -> bytes:
    """Run ffmpeg on pictures and return what it printed. Raises `OSError` with its last words when it fails."""
    need("plots")
    import imageio_ffmpeg

    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *arguments]
    except RuntimeError as error:
        raise OSError(f"no ffmpeg ({error})") from error
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=said) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its status and its words say why
                for picture in pictures:
                    process.stdin.write(picture.tobytes())
                process.stdin.close()
            printed = process.stdout.read()
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        said.seek(0)
        words = said.read().decode(errors="replace").split("\n")
    if status != 0:
        last = next((line.strip() for line in reversed(words) if line.strip()), "it said nothing")
        raise OSError(f"a failure of ffmpeg, status {status} ({last[:200]})")
    return printed


def _even(pictures: np.ndarray) -> np.ndarray:
    """Edges repeated where a side is odd: the chroma of yuv420p covers two pixels."""
    _, height, width, _ = pictures.shape
    return np.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
