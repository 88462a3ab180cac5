"""Video files: H.264 in MP4, which every browser and player shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bwcache.extras import need
from bwcache.measure.frames import Frames
from bwcache.measure.results import Pair
from bwcache.report.pictures import amplification, as_pictures, difference, difference_label, enlargement, labelled_row


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
    """Write pictures, uint8 [F, H, W, 3], as yuv420p at a quality that hides the compression."""
    need("plots")
    import imageio_ffmpeg

    even = _even(pictures)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        size=(even.shape[2], even.shape[1]),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        quality=None,
        ffmpeg_log_level="error",
        output_params=["-crf", "14", "-preset", "medium", "-movflags", "+faststart"],
    )
    writer.send(None)
    try:
        for picture in even:
            writer.send(np.ascontiguousarray(picture))
    finally:
        writer.close()


def _even(pictures: np.ndarray) -> np.ndarray:
    """Edges repeated where a side is odd: the chroma of yuv420p covers two pixels."""
    _, height, width, _ = pictures.shape
    return np.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
