"""How close a video is to its reference: PSNR, SSIM, MS-SSIM and LPIPS by torchmetrics, VMAF and XPSNR by ffmpeg.

Protocol: decoded float frames in 0..1, before any video compression; the measure of each frame on its own (all pixels
and the three colours together), then the mean over the frames of the video. Over several videos: the mean of the
videos' values (`Total`), with the worst one beside it.

PSNR: frames without any difference have no finite one; they are left out of its mean, which can only lower it; two
videos without any difference have PSNR infinity. SSIM: torchmetrics' defaults (Gaussian window of 11 pixels, sigma 1.5,
k1 = .01, k2 = .03, frames mirrored at their edges). MS-SSIM: the same window on five scales, each half as large, with
the weights of its paper (Wang et al. 2003); negative terms count as 0. LPIPS: see `bwcache.measure.lpips`. VMAF
and XPSNR: see `bwcache.measure.vmaf`.

What cannot be measured is None, and a note says why. Nothing stands in for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bwcache.errors import SettingError, complaint
from bwcache.measure import vmaf
from bwcache.measure.frames import Frames
from bwcache.measure.lpips import BACKBONES, DEFAULT_BACKBONE, check_backbone, measures, network

Device = str | torch.device
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LABELS = {"vmaf": "VMAF", "xpsnr": "XPSNR", "motion": "Motion kept"}
"""What notes call those that ffmpeg measures."""

MS_SSIM_SIDE = 176  # pixels: torchmetrics asks for more than 10 of them, rounded down, after four halvings


@dataclass(frozen=True)
class Quality:
    """How close a video is to its reference.

    Attributes:
        psnr: dB, mean over the frames; infinity for identical videos.
        ssim: -1..1, mean over the frames; 1 for identical videos.
        ms_ssim: 0..1, mean over the frames; 1 for identical videos; None for frames that are too small.
        lpips: 0 and up, lower is closer, mean over the frames; None where it cannot be measured.
        backbone: whose features LPIPS compares; None where it was not asked for.
        notes: why a measure is None.
        vmaf: 0..100, mean over the frames; about 97 to 100 for identical videos; None where it cannot be measured.
        xpsnr: dB, mean over the frames; infinity for equal luma; None where it cannot be measured.
        motion_kept: how much it moves over how much its reference does, by `vmafmotion`; 1 is as much, 0 a still; None
            where that cannot be measured, or the reference is a still.
    """

    psnr: float
    ssim: float
    ms_ssim: float | None = None
    lpips: float | None = None
    backbone: str | None = None
    notes: tuple[str, ...] = ()
    vmaf: float | None = None
    xpsnr: float | None = None
    motion_kept: float | None = None

    @property
    def identical(self) -> bool:
        """Whether no pixel differs."""
        return math.isinf(self.psnr)


def quality(
    reference: Frames, candidate: Frames, backbone: str | None = DEFAULT_BACKBONE, device: Device = "cpu"
) -> Quality:
    """All measures of ``candidate`` against ``reference``.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.
        backbone: of LPIPS: "alex" or "vgg"; None leaves LPIPS out.
        device: where to measure: one that has double precision.

    Raises:
        SettingError: for a backbone that is none.
        ValueError: for two shapes.
    """
    notes: list[str] = []

    def try_measure(name: str, measure: Callable[[], float]) -> float | None:
        try:
            return measure()
        except SettingError as error:
            notes.append(f"{name}: {error}")
            return None

    found_psnr, found_ssim = psnr(reference, candidate, device), ssim(reference, candidate, device)
    found_ms_ssim = try_measure("MS-SSIM", lambda: ms_ssim(reference, candidate, device))
    found_lpips = None
    if backbone is not None:
        check_backbone(backbone)
        found_lpips = try_measure(f"LPIPS ({backbone})", lambda: lpips(reference, candidate, backbone, device))
    by_ffmpeg = _by_ffmpeg(reference, candidate, notes)
    return Quality(found_psnr, found_ssim, found_ms_ssim, found_lpips, backbone, tuple(notes), **by_ffmpeg)


def _by_ffmpeg(reference: Frames, candidate: Frames, notes: list[str]) -> dict[str, float | None]:
    """What can be measured here of VMAF, XPSNR and motion; why one cannot is added to the notes."""
    problems = {name: vmaf.problem(name, reference) for name in vmaf.FILTERS}
    able = [name for name, why in problems.items() if why is None]
    try:
        frames = vmaf.frame_measures(reference, candidate, able) if able else {}
    except SettingError as error:
        frames, problems = {}, problems | dict.fromkeys(able, str(error))
    found: dict[str, float | None] = {"vmaf": float(frames["vmaf"].mean()) if "vmaf" in frames else None}
    found["xpsnr"] = vmaf.mean_of_differing(frames["xpsnr"]) if "xpsnr" in frames else None
    moved = float(frames["reference_motion"].sum()) if "reference_motion" in frames else 0.0
    found["motion_kept"] = float(frames["motion"].sum()) / moved if moved and "motion" in frames else None
    if len(reference) == 1:
        problems["motion"] = None  # an image: nothing is missing
    elif not moved and problems["motion"] is None:
        problems["motion"] = complaint("a reference that is a still", "one that moves", "leave it out")
    notes += [f"{LABELS[name]}: {why}" for name, why in problems.items() if name in LABELS and why is not None]
    return found


def psnr(reference: Frames, candidate: Frames, device: Device = "cpu") -> float:
    """Peak signal to noise ratio in dB, mean over the frames that differ; infinity when none does.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.
        device: where to measure.
    """
    values = frame_psnr(reference, candidate, device)
    differing = values[np.isfinite(values)]
    return float(differing.mean()) if differing.size else math.inf


def ssim(reference: Frames, candidate: Frames, device: Device = "cpu") -> float:
    """Structural similarity, mean over the frames.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.
        device: where to measure.
    """
    return float(frame_ssim(reference, candidate, device).mean())


def ms_ssim(reference: Frames, candidate: Frames, device: Device = "cpu") -> float:
    """Structural similarity on five scales, mean over the frames.

    Args:
        reference: float [F, H, W, 3] in 0..1, both sides at least 176 pixels.
        candidate: the same shape.
        device: where to measure.

    Raises:
        SettingError: the frames are smaller.
    """
    return float(frame_ms_ssim(reference, candidate, device).mean())


def lpips(reference: Frames, candidate: Frames, backbone: str = DEFAULT_BACKBONE, device: Device = "cpu") -> float:
    """Learned perceptual distance, mean over the frames; 0 for identical videos.

    Args:
        reference: float [F, H, W, 3] in 0..1.
        candidate: the same shape.
        backbone: "alex" or "vgg".
        device: where to measure.

    Raises:
        SettingError: there is no torchvision, or no weights on this disk, or the frames are too small.
    """
    return float(frame_lpips(reference, candidate, backbone, device).mean())


def frame_psnr(reference: Frames, candidate: Frames, device: Device = "cpu") -> np.ndarray:
    """PSNR of each frame in dB, [F]; infinity where a frame does not differ."""

    def measure(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        value = measures().peak_signal_noise_ratio(found, expected, data_range=1.0, dim=(1, 2, 3), reduction="none")
        assert isinstance(value, torch.Tensor)
        return value

    return _per_frame(measure, reference, candidate, device)


def frame_ssim(reference: Frames, candidate: Frames, device: Device = "cpu") -> np.ndarray:
    """SSIM of each frame, [F]."""

    def measure(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        value = measures().structural_similarity_index_measure(found, expected, data_range=1.0, reduction="none")
        assert isinstance(value, torch.Tensor)
        return value

    return _per_frame(measure, reference, candidate, device)


def frame_ms_ssim(reference: Frames, candidate: Frames, device: Device = "cpu") -> np.ndarray:
    """MS-SSIM of each frame, [F]; raises as `ms_ssim`."""
    _check_side("five scales of an 11 pixel window", reference, MS_SSIM_SIDE)

    def measure(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        score = measures().multiscale_structural_similarity_index_measure
        value = score(found, expected, data_range=1.0, reduction="none")
        assert isinstance(value, torch.Tensor)
        return value

    return _per_frame(measure, reference, candidate, device)


def frame_lpips(
    reference: Frames, candidate: Frames, backbone: str = DEFAULT_BACKBONE, device: Device = "cpu"
) -> np.ndarray:
    """LPIPS of each frame, [F]; raises as `lpips`."""
    check_backbone(backbone)
    _check_side(f"the backbone {backbone!r}", reference, BACKBONES[backbone].side)
    net = network(backbone).to(device)

    def measure(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        value = net(found.float(), expected.float(), normalize=True)
        assert isinstance(value, torch.Tensor)
        return value

    return _per_frame(measure, reference, candidate, device)


def _check_side(asking: str, frames: Frames, side: int) -> None:
    height, width = frames.shape[1:3]
    if min(height, width) < side:
        raise SettingError(
            complaint(
                f"frames of {height} x {width} pixels", f"at least {side} on each side for {asking}", "make larger ones"
            )
        )


def _per_frame(measure: Measure, reference: Frames, candidate: Frames, device: Device) -> np.ndarray:
    """``measure`` over [1, 3, H, W] tensors in double precision: in single, SSIM errs by 5e-4 on bright flat pictures.

    One frame at a time: on a CPU torch is slower with more, for the memory that its convolution of doubles takes.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"found videos of shapes {reference.shape} and {candidate.shape}; expected equal shapes")

    def batch(frame: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(frame)).to(device).double().permute(2, 0, 1)[None]

    with torch.inference_mode():
        values = [measure(batch(a), batch(b)).reshape(-1) for a, b in zip(reference, candidate, strict=True)]
        return torch.cat(values).cpu().numpy()
