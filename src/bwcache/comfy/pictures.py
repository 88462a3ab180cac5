"""What a run did as a picture, and two videos side by side: as ComfyUI's images, `[N, H, W, 3]` in 0..1."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bwcache.core.trace import Trace
from bwcache.errors import SettingError, complaint
from bwcache.measure.quality import psnr, ssim
from bwcache.report.timeline import legend, reasons, timeline

LETTERS = 62
"""As many as a line above a picture has room for."""
SSIM_SIDE = 11
"""Pixels that a picture must have each way for SSIM."""


def drawn(trace: Trace, note: str = "") -> Tensor:
    """Return which steps of a run were computed and why, `[1, H, W, 3]`, under a line or two.

    Args:
        trace: of the run.
        note: what a person should know of it, in place of the run's own remark.

    Raises:
        BWCacheError: matplotlib is missing.
    """
    from PIL import Image

    from bwcache.comfy.run_picture import draw
    from bwcache.comfy.sampling import counted, remark

    heading = [counted(trace), *textwrap.wrap(note or remark(trace), LETTERS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.png"
        draw(trace, path, "\n".join(heading))
        picture = np.asarray(Image.open(path).convert("RGB"))
    return torch.from_numpy(picture.astype(np.float32) / 255)[None]


def captioned(picture: Tensor, captions: Sequence[str], below: str) -> Tensor:
    """Return a picture of as many panels side by side with a word above each, and a line below.

    Args:
        picture: `[1, H, W, 3]` in 0..1.
        captions: of the panels, from the left.
        below: the line.
    """
    width, count = picture.shape[2], len(captions)
    places = [(round((i + 0.5) * width / count), word) for i, word in enumerate(captions)]
    bands = _band(width, places, count), _band(width, [(width // 2, below)], 1)
    return torch.cat([bands[0], picture[0].float().cpu(), bands[1]])[None]


def _band(width: int, words: Sequence[tuple[int, str]], count: int, most: int = 48) -> Tensor:
    """A white strip, `[h, W, 3]`, with words around their places, as large as `count` of them have room."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(8, min(width // most, int(1.7 * width / count / max(len(word) for _, word in words))))
    band = Image.new("RGB", (width, 2 * size), "white")
    pen, font = ImageDraw.Draw(band), ImageFont.load_default(size)
    for place, word in words:
        pen.text((place, size), word, fill="black", font=font, anchor="mm")
    return torch.from_numpy(np.asarray(band).astype(np.float32) / 255)


def briefly(trace: Trace | None, note: str) -> str:
    """Return a run in a few lines, as there is room for on a node: its line, a letter per step, the reasons."""
    from bwcache.comfy.sampling import line

    if trace is None:
        return said(trace, note)
    letters, first = timeline(trace), line(trace)
    heading = (first,) if note in first else (first, note)
    return "\n".join((*heading, "", f"{letters}  ({legend([letters])})", *reasons(trace)))


def said(trace: Trace | None, note: str) -> str:
    """Return a run in words: in brief, its summary, each step with its reason; or why there is none."""
    if trace is None:
        return note or "nothing was sampled with this model yet"
    rows = [f"step {event.step} {event.branch}: {event.action}, {event.reason}" for event in trace.events]
    return "\n".join((briefly(trace, note), "", str(trace.summary()), "", *rows))


def beside(uncached: Tensor, cached: Tensor, gain: int = 4) -> tuple[Tensor, str]:
    """Return uncached, cached and the difference side by side, `[N, H, 3 W, 3]`, and how close they are, in words.

    Args:
        uncached, cached: `[N, H, W, 3]` in 0..1, of the same seed and size.
        gain: by how much the difference is enlarged.

    Raises:
        SettingError: they are not of one size.
    """
    if uncached.shape != cached.shape:
        found = f"images of {tuple(uncached.shape)} and {tuple(cached.shape)}"
        action = "compare two samplings of the same size and length"
        raise SettingError(complaint(found, "as many pictures of the same size", action))
    one, other = (each.float().cpu().clamp(0, 1) for each in (uncached, cached))
    difference = ((one - other).abs() * gain).clamp(0, 1)
    return torch.cat([one, other, difference], 2), closeness(one, other)


def closeness(one: Tensor, other: Tensor) -> str:
    """Return PSNR and SSIM of two videos in words."""
    if torch.equal(one, other):
        return "identical, bit for bit"
    frames: list[Any] = [np.asarray(each) for each in (one, other)]
    words = f"PSNR {psnr(*frames):.2f} dB"
    return words if min(one.shape[1:3]) < SSIM_SIDE else f"{words}, SSIM {ssim(*frames):.4f}"


def written(text: str, width: int = 900) -> Tensor:
    """Return a picture of nothing but words, `[1, H, W, 3]`: there is no run to draw."""
    lines = textwrap.wrap(text, LETTERS)
    return torch.cat([_band(width, [(width // 2, each)], 1, most=32) for each in lines])[None]
