"""Cells made by hand, for the tests that need no model."""

from typing import Any

from bwcache.study import Cell


def cell(label: str = "A (1)", prompt: str = "p", **figures: Any) -> Cell:
    """A finished run: half of the work, twice as fast, 30 dB, unless said otherwise."""
    known: dict[str, Any] = {
        "family": label.split(" (")[0],
        "settings": {"x": label},
        "seed": 0,
        "compute": 0.5,
        "seconds": 0.6,
        "denoise_seconds": 0.5,
        "uncached_seconds": 1.1,
        "uncached_denoise_seconds": 1.0,
        "quality": {"psnr": 30.0, "ssim": 0.9, "lpips": None},
        "kept_bytes": 10,
    }
    return Cell(label=label, prompt=prompt, **{**known, **figures})


def at(label: str, speed: float, psnr: float, prompt: str = "p", **figures: Any) -> Cell:
    """A run by its speedup, in work as in time, and its PSNR in dB."""
    quality = {"psnr": psnr, "ssim": psnr / 100, "lpips": 1 / psnr}
    return cell(label, prompt, compute=1 / speed, denoise_seconds=1 / speed, quality=quality, **figures)
