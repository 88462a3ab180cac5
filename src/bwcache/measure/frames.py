"""What a pipeline hands back, as one video: F frames of H x W pixels, red green blue, 0..1."""

from __future__ import annotations

from typing import Any

import numpy as np

Frames = np.ndarray
"""float32, [F, H, W, 3], 0..1."""


def as_frames(output: Any) -> Frames:
    """The first video of a pipeline's output.

    Args:
        output: what ``pipe(..., output_type="np")`` returned: an object with ``frames`` (videos) or ``images``.

    Returns:
        float32 [F, H, W, 3] in 0..1; an image is a video of one frame.
    """
    video = _array(output.frames[0]) if hasattr(output, "frames") else _array(output.images[0])[None]
    if video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"found a decoded video of shape {video.shape}; expected [frames, height, width, 3]")
    clipped: Frames = np.clip(video, 0.0, 1.0)
    return clipped


def _array(pictures: Any) -> np.ndarray:
    """Arrays of numbers 0..1 as they are, of bytes divided; lists of arrays or of PIL pictures stacked."""
    if isinstance(pictures, np.ndarray):
        scale = 255.0 if pictures.dtype == np.uint8 else 1.0
        return pictures.astype(np.float32) / np.float32(scale)
    if isinstance(pictures, (list, tuple)):
        return np.stack([_array(picture) for picture in pictures])
    return np.asarray(pictures, dtype=np.float32) / 255.0  # a PIL picture
