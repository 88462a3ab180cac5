"""VMAF, XPSNR and VMAF's measure of motion: how videos look, told by ffmpeg's filters. See `bwcache.measure.ffmpeg`.

VMAF (Netflix, 2016; the model vmaf_v0.6.1): 0..100, how close a video looks to its reference as people rated it, from
detail and contrast on four scales and from motion between the frames. Identical frames are not 100 to the model, but
97.4 where nothing moves, and nearer to 100 the more does: the first frame, and a video of one, have no motion. It looks
at luma alone.

XPSNR (Helmrich et al. 2020): dB, a PSNR of luma in which errors count less where there is texture or motion to hide
them.

What frames cannot be measured, an error says: nothing stands in for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from bwcache.errors import SettingError, complaint
from bwcache.measure import ffmpeg
from bwcache.measure.frames import Frames

FILTERS = {"vmaf": "libvmaf", "xpsnr": "xpsnr", "motion": "vmafmotion", "reference_motion": "vmafmotion"}
"""By the measure's name."""

GRAPHS = {
    "vmaf": "{1}{0}libvmaf=log_fmt=json:n_threads=1:log_path={file}",
    "xpsnr": "{1}{0}xpsnr=stats_file={file}",
    "motion": "{0}nullsink;{1}vmafmotion=stats_file={file}",
    "reference_motion": "{1}nullsink;{0}vmafmotion=stats_file={file}",
}
"""{0} is the reference, {1} what is measured."""

SMALLEST = 17
"""Pixels of a side: with fewer, nothing is left on the coarsest of VMAF's four scales."""

ONLY_WEIGHED = 2025
"""Pixels of a frame: with fewer, ffmpeg weighs nothing and calls a plain PSNR XPSNR."""
BLOCK = 4
"""Pixels: where the height is no multiple, ffmpeg's XPSNR can be 10 dB off by what it reads below the last row."""


def vmaf(reference: Frames, candidate: Frames) -> float:
    """Return the VMAF of a video, 0..100, mean over the frames; about 97 to 100 for identical ones.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.

    Raises:
        SettingError: ffmpeg lacks libvmaf, or the frames are too small.
    """
    return float(frame_measures(reference, candidate, ["vmaf"])["vmaf"].mean())


def xpsnr(reference: Frames, candidate: Frames) -> float:
    """Return the XPSNR of a video in dB, mean over the frames whose luma differs; infinity where none does.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.

    Raises:
        SettingError: ffmpeg lacks it, or the frames are too small or their sides no multiples of 4.
    """
    return mean_of_differing(frame_measures(reference, candidate, ["xpsnr"])["xpsnr"])


def mean_of_differing(values: np.ndarray) -> float:
    """Return the mean of the finite values; infinity without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("inf")


def frame_measures(reference: Frames, candidate: Frames, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return some of `FILTERS` for each frame, [F], all by one run of ffmpeg; raises as `vmaf` and `xpsnr` do.

    "motion" is that of the candidate, "reference_motion" that of the reference, from the frame before: 0 in the first.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"found videos of shapes {reference.shape} and {candidate.shape}; expected equal shapes")
    for name in names:
        if (why := problem(name, reference)) is not None:
            raise SettingError(why)
    written = ffmpeg.frame_numbers([reference, candidate], {name: GRAPHS[name] for name in names})
    read = {"vmaf": _read_vmaf, "xpsnr": _read_xpsnr, "motion": _read_motion, "reference_motion": _read_motion}
    return {name: _checked(name, read[name](written[name]), len(reference)) for name in names}


def problem(name: str, frames: Frames) -> str | None:
    """Return why these frames cannot be measured here by one of `FILTERS`, in one line; None where they can."""
    height, width = frames.shape[1:3]
    found, larger = f"frames of {height} x {width} pixels", "make larger ones"
    if name != "xpsnr" and min(height, width) < SMALLEST:
        return complaint(found, f"at least {SMALLEST} on each side for four scales", larger)
    if name.endswith("motion") and len(frames) < 2:
        return complaint("a video of one frame", "at least 2 to see motion", "ask for more frames")
    if name == "xpsnr" and height * width < ONLY_WEIGHED:
        return complaint(found, f"at least {ONLY_WEIGHED} pixels for weights of parts of a frame", larger)
    if name == "xpsnr" and (height % BLOCK or width % BLOCK):
        return complaint(found, f"sides that are multiples of {BLOCK}", "make such ones")
    return ffmpeg.problem(FILTERS[name])


def frame_motion(video: Frames) -> np.ndarray:
    """Return VMAF's measure of motion from each frame to the next: mean difference of blurred luma, 0..255, [F - 1].

    Args:
        video: float [F, H, W, 3] in 0..1.

    Raises:
        SettingError: ffmpeg lacks it, or the frames are too small.
    """
    height, width = video.shape[1:3]
    if min(height, width) < SMALLEST:
        found = f"frames of {height} x {width} pixels"
        raise SettingError(complaint(found, f"at least {SMALLEST} on each side", "make larger ones"))
    if (why := ffmpeg.problem("vmafmotion")) is not None:
        raise SettingError(why)
    written = ffmpeg.frame_numbers([video], {"motion": "{0}vmafmotion=stats_file={file}"})["motion"]
    return _checked("vmafmotion", _read_motion(written), len(video))[1:]


def _read_vmaf(text: str) -> list[float]:
    return [frame["metrics"]["vmaf"] for frame in json.loads(text)["frames"]]


def _read_xpsnr(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"^n: *\d+ +XPSNR y: *(\S+)", text, re.MULTILINE)]


def _read_motion(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"^n:\d+ motion:(\S+)", text, re.MULTILINE)]


def _checked(name: str, values: Sequence[float], count: int) -> np.ndarray:
    if len(values) != count:
        found = f"{len(values)} values of {name} for {count} frames"
        raise SettingError(complaint(found, "one for each", ffmpeg.OTHERS))
    return np.array(values, dtype=np.float64)
