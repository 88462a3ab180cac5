"""What a pipeline hands back, as one video: F frames of H x W pixels, red green blue, 0..1."""

from __future__ import annotations

from typing import Any

import numpy as np

Frames = np.ndarray
"""float32, [F, H, W, 3], 0..1."""


def as_frames(output: Any) -> Frames:
    """Return the first video of a pipeline's output, as `as_videos`."""
    return as_videos(output, 1)[0]


def as_videos(output: Any, most: int | None = None) -> list[Frames]:
    """Return the videos of a pipeline's output.

    Args:
        output: what ``pipe(..., output_type="np")`` returned: an object with ``frames`` (videos) or ``images``.
        most: so many at most; None: all.

    Returns:
        Of each float32 [F, H, W, 3] in 0..1; an image is a video of one frame.
    """
    if hasattr(output, "frames"):
        videos = [_array(video) for video in output.frames[:most]]
    else:
        videos = [_array(image)[None] for image in output.images[:most]]
    for video in videos:
        if video.ndim != 4 or video.shape[-1] != 3:
            raise ValueError(f"found a decoded video of shape {video.shape}; expected [frames, height, width, 3]")
    return [np.clip(video, 0.0, 1.0) for video in videos]


def _array(pictures: Any) -> np.ndarray:
    """Arrays of numbers 0..1 as they are, of bytes divided; lists of arrays or of PIL pictures stacked."""
    if isinstance(pictures, np.ndarray):
        scale = 255.0 if pictures.dtype == np.uint8 else 1.0
        return pictures.astype(np.float32) / np.float32(scale)
    if isinstance(pictures, (list, tuple)):
        return np.stack([_array(picture) for picture in pictures])
    return np.asarray(pictures, dtype=np.float32) / 255.0  # a PIL picture
