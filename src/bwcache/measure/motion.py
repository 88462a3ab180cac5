"""How much a video moves, by three stated measures, and which of several videos are calm and which lively.

Difference: the mean absolute difference between a frame and the next one, over all pixels and colours, then over the
pairs of frames; 0 for a still, at most 1. It grows with contrast and with the size of what moves, and counts flicker.

Flow: the mean length of the optical flow between a frame and the next one, in pixels per frame, over all pixels, then
over the pairs. Dense flow of Farnebäck (2003) by OpenCV on grey frames of 8 bits, three levels of a pyramid, windows
of 15 pixels. It grows with resolution, and hardly with contrast, until texture is faint: then it falls short (a pattern
at half its contrast by 1 %, at a quarter by 11 %, at a tenth by 70 %). Where there is no texture there is no flow.

VMAF's motion: the mean absolute difference between the blurred luma of a frame and of the next one, 0..255 of 8 bits,
by ffmpeg (`bwcache.measure.vmaf`). It counts less flicker than the plain difference.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bwcache.errors import SettingError, complaint
from bwcache.measure.frames import Frames
from bwcache.measure.vmaf import frame_motion

FARNEBACK = {
    "pyr_scale": 0.5,
    "levels": 3,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}


@dataclass(frozen=True)
class Motion:
    """How much one video moves.

    Attributes:
        difference: mean absolute difference between neighbouring frames, 0..1.
        flow: mean optical flow between them, pixels per frame; None without OpenCV.
        notes: why a measure is None.
        vmafmotion: mean difference of blurred luma, 0..255; None where ffmpeg cannot tell.
    """

    difference: float
    flow: float | None
    notes: tuple[str, ...] = ()
    vmafmotion: float | None = None


@dataclass(frozen=True)
class Split:
    """Videos, by their index, below and above the median of a measure.

    Attributes:
        calm: those at the median or below it.
        lively: those above it.
        median: of the measure.
        values: the measure of each video.
    """

    calm: tuple[int, ...]
    lively: tuple[int, ...]
    median: float
    values: tuple[float, ...]


def motion(video: Frames) -> Motion:
    """All measures of a video, float [F, H, W, 3] in 0..1.

    Raises:
        SettingError: there are fewer than two frames.
    """
    _check_length(video)
    notes: list[str] = []
    found: dict[str, float | None] = {}
    for name, measure in (("flow", flow), ("vmafmotion", vmafmotion)):
        try:
            found[name] = measure(video)
        except SettingError as error:
            found[name] = None
            notes.append(f"{name}: {error}")
    return Motion(difference(video), found["flow"], tuple(notes), found["vmafmotion"])


def difference(video: Frames) -> float:
    """Mean absolute difference between neighbouring frames of float [F, H, W, 3] in 0..1.

    Raises:
        SettingError: there are fewer than two frames.
    """
    return float(frame_difference(video).mean())


def flow(video: Frames) -> float:
    """Mean length of the optical flow between neighbouring frames, pixels per frame.

    Args:
        video: float [F, H, W, 3] in 0..1.

    Raises:
        SettingError: there are fewer than two frames, or no OpenCV.
    """
    return float(frame_flow(video).mean())


def vmafmotion(video: Frames) -> float:
    """Mean difference of blurred luma between neighbouring frames, 0..255.

    Args:
        video: float [F, H, W, 3] in 0..1.

    Raises:
        SettingError: there are fewer than two frames, they are too small, or ffmpeg lacks it.
    """
    _check_length(video)
    return float(frame_motion(video).mean())


def frame_difference(video: Frames) -> np.ndarray:
    """The difference of each frame to the next one, [F - 1]; raises as `difference`."""
    _check_length(video)
    return np.array([np.abs(b - a).mean(dtype=np.float64) for a, b in itertools.pairwise(video)])


def frame_flow(video: Frames) -> np.ndarray:
    """The flow from each frame to the next one, [F - 1]; raises as `flow`."""
    _check_length(video)
    problem = opencv_problem()
    if problem is not None:
        raise SettingError(problem)
    import cv2

    options: dict[str, Any] = {"flow": None, **FARNEBACK}
    grey = [cv2.cvtColor(_eight_bits(frame), cv2.COLOR_RGB2GRAY) for frame in video]
    fields = (cv2.calcOpticalFlowFarneback(a, b, **options) for a, b in itertools.pairwise(grey))
    return np.array([np.hypot(field[..., 0], field[..., 1]).mean(dtype=np.float64) for field in fields])


def split(videos: Sequence[Frames], measure: Callable[[Frames], float] = difference) -> Split:
    """Tell calm videos from lively ones by the median of a measure.

    Args:
        videos: float [F, H, W, 3] in 0..1 each.
        measure: `difference`, `flow` or `vmafmotion`.

    Raises:
        SettingError: there is no video, or one that cannot be measured.
    """
    if not videos:
        raise SettingError(complaint("no videos", "at least one", "name a folder with videos"))
    values = tuple(measure(video) for video in videos)
    median = float(np.median(values))
    calm = tuple(index for index, value in enumerate(values) if value <= median)
    lively = tuple(index for index, value in enumerate(values) if value > median)
    return Split(calm, lively, median, values)


def opencv_problem() -> str | None:
    """Why optical flow cannot be measured, in one line; None when it can."""
    if importlib.util.find_spec("cv2") is None:
        return complaint("no OpenCV", "it for optical flow", "pip install 'bwcache[motion]'")
    return None


def _check_length(video: Frames) -> None:
    if len(video) < 2:
        raise SettingError(
            complaint(f"a video of {len(video)} frames", "at least 2 to see motion", "ask for more frames")
        )


def _eight_bits(frame: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.round(np.clip(frame, 0.0, 1.0) * 255.0).astype(np.uint8)
    return rounded
