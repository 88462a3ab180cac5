"""PSNR and SSIM of two videos.

Protocol: decoded float frames in 0..1, before any video compression; the measure of each frame on its own (all pixels
and the three colours together), then the mean over the frames of the video. SSIM with torchmetrics' defaults (Gaussian
window of 11 pixels, sigma 1.5, k1 = .01, k2 = .03, frames mirrored at their edges). Frames without any difference have
no finite PSNR: they are left out of its mean, which can only lower it; two videos without any difference have PSNR
infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bwcache.measure.frames import Frames

CHUNK = 8  # frames measured at once: SSIM needs five copies of them


@dataclass(frozen=True)
class Quality:
    """How close a video is to its reference.

    Attributes:
        psnr: dB, mean over the frames; infinity for identical videos.
        ssim: -1..1, mean over the frames; 1 for identical videos.
    """

    psnr: float
    ssim: float

    @property
    def identical(self) -> bool:
        """Whether no pixel differs."""
        return math.isinf(self.psnr)


def quality(reference: Frames, candidate: Frames) -> Quality:
    """Both measures of ``candidate`` against ``reference``, float [F, H, W, 3] in 0..1."""
    return Quality(psnr=psnr(reference, candidate), ssim=ssim(reference, candidate))


def psnr(reference: Frames, candidate: Frames) -> float:
    """Peak signal to noise ratio in dB, mean over the frames that differ; infinity when none does.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.
    """
    values = frame_psnr(reference, candidate)
    differing = values[np.isfinite(values)]
    return float(differing.mean()) if differing.size else math.inf


def ssim(reference: Frames, candidate: Frames) -> float:
    """Structural similarity, mean over the frames.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.
    """
    return float(frame_ssim(reference, candidate).mean())


def frame_psnr(reference: Frames, candidate: Frames) -> np.ndarray:
    """PSNR of each frame in dB, [F]; infinity where a frame does not differ."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    def measure(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        return peak_signal_noise_ratio(found, expected, data_range=1.0, dim=(1, 2, 3), reduction="none")

    return _per_frame(measure, reference, candidate)


def frame_ssim(reference: Frames, candidate: Frames) -> np.ndarray:
    """SSIM of each frame, [F]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    def measure(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        value = structural_similarity_index_measure(found, expected, data_range=1.0, reduction="none")
        assert isinstance(value, torch.Tensor)
        return value

    return _per_frame(measure, reference, candidate)


def _per_frame(
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], reference: Frames, candidate: Frames
) -> np.ndarray:
    """``measure`` over [n, 3, H, W] tensors, a few frames at a time, in double precision."""
    if reference.shape != candidate.shape:
        raise ValueError(f"found videos of shapes {reference.shape} and {candidate.shape}; expected equal shapes")
    values = []
    for start in range(0, len(reference), CHUNK):
        expected, found = (
            torch.from_numpy(np.ascontiguousarray(video[start : start + CHUNK])).double().permute(0, 3, 1, 2)
            for video in (reference, candidate)
        )
        values.append(measure(expected, found).reshape(-1))
    return torch.cat(values).numpy()
