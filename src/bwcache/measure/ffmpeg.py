"""The measures of videos that ffmpeg has as filters: raw frames go in, one number for each frame comes out.

It is the ffmpeg that imageio-ffmpeg brings, with libvmaf and its models built in; nothing is fetched. Frames are handed
over as they were decoded, before any compression: their luma by BT.709, 10 bits, in files of a folder that is gone
afterwards.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bwcache.errors import SettingError, complaint
from bwcache.measure.frames import Frames

BT_709 = (0.2126, 0.7152, 0.0722)
BLACK, WHITE = 64, 940
"""Luma of 10 bits, as broadcast has it."""

RATE = "25"
"""Frames per second that it is told. No measure depends on it."""

INSTALL = "pip install 'bwcache[plots]'"
OTHERS = "set IMAGEIO_FFMPEG_EXE to an ffmpeg that has it, or install another imageio-ffmpeg"


def problem(name: str) -> str | None:
    """Return why ffmpeg has no filter of a name, in one line; None where it has."""
    try:
        program = executable()
        there = filters(program)
    except SettingError as error:
        return str(error)
    return None if name in there else complaint(f"{Path(program).name} without {name}", "a build that has it", OTHERS)


def frame_numbers(videos: Sequence[Frames], graphs: Mapping[str, str]) -> dict[str, str]:
    """Run filters over videos, once for all of them, and return what each wrote.

    Args:
        videos: of one shape, float [F, H, W, 3] in 0..1.
        graphs: name -> filters, where {0}, {1}, … stand for the videos and {file} for what the filter writes.

    Raises:
        SettingError: there is no ffmpeg, or it failed; in its words.
    """
    height, width = videos[0].shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "gray10le", "-s", f"{width}x{height}", "-r", RATE]
    with tempfile.TemporaryDirectory(prefix="bwcache-") as made:
        folder = Path(made)
        inputs: list[str] = []
        for place, video in enumerate(videos):
            (folder / f"{place}.raw").write_bytes(luma(video).tobytes())
            inputs += [*raw, "-i", f"{place}.raw"]
        splits = [_split(place, len(graphs)) for place in range(len(videos))]
        ends = [
            graph.format(*(f"[v{place}n{number}]" for place in range(len(videos))), file=f"{name}.txt") + f"[{name}]"
            for number, (name, graph) in enumerate(graphs.items())
        ]
        outputs = [argument for name in graphs for argument in ("-map", f"[{name}]")]
        _run([*inputs, "-lavfi", ";".join([*splits, *ends]), *outputs, "-f", "null", "-"], folder)
        return {name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in graphs}


def _split(place: int, count: int) -> str:
    return f"[{place}:v]split={count}" + "".join(f"[v{place}n{number}]" for number in range(count))


def luma(video: Frames) -> np.ndarray:
    """Return the luma of each frame, little-endian 16 bit integers of 64 to 940, [F, H, W].

    Args:
        video: float [F, H, W, 3]; what lies outside of 0..1 is cut.
    """
    grey = np.clip(video, 0.0, 1.0).astype(np.float64) @ np.array(BT_709)
    found: np.ndarray = np.rint(BLACK + (WHITE - BLACK) * grey).astype("<u2")
    return found


@functools.cache
def executable() -> str:
    """Return the path of imageio-ffmpeg's ffmpeg.

    Raises:
        SettingError: there is none.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        raise SettingError(complaint("no imageio-ffmpeg", "it for the ffmpeg that it brings", INSTALL)) from None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        said = " ".join(str(error).split())[:120]
        raise SettingError(complaint(f"no ffmpeg ({said})", "one that imageio-ffmpeg finds", OTHERS)) from error


@functools.cache
def filters(program: str) -> frozenset[str]:
    """Return the names of the filters that an ffmpeg has.

    Raises:
        SettingError: it does not run.
    """
    listed = _called([program, "-hide_banner", "-filters"], None)
    return frozenset(re.findall(r"^ *[A-Z.]+ +(\w+) +\S+->\S+", listed, re.MULTILINE))


def _run(arguments: Sequence[str], folder: Path) -> None:
    _called([executable(), "-nostdin", "-hide_banner", "-nostats", "-loglevel", "error", *arguments], folder)


def _called(command: Sequence[str], folder: Path | None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        found = f"{command[0]} that does not start ({error.strerror})"
        raise SettingError(complaint(found, "an ffmpeg for this machine", OTHERS)) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        said = next((line.split("] ")[-1] for line in lines if line.strip()), f"exit {done.returncode}")
        raise SettingError(
            complaint(f"an ffmpeg that failed ({said.strip()[:120]})", "a number for each frame", OTHERS)
        )
    return done.stdout.decode("utf-8", "replace")
