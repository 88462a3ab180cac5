"""Frames as pictures: upscaled, labelled, set side by side; and the storyboard of a comparison.

Letters in shapes: F frames, H height, W width in pixels; pictures are uint8, red green blue.
"""

from __future__ import annotations

import bisect
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bwcache.extras import need
from bwcache.measure.frames import Frames
from bwcache.report.letters import USUAL, drawable, font_path

VIEWED_HEIGHT = 320
"""Pixels that small frames are brought to, about, by whole factors."""

FACTORS = (1, 2, 5, 10, 20, 50, 100)
INK = (24, 26, 32)
PAPER = (250, 250, 248)
GREY = (104, 108, 118)


def enlargement(height: int) -> int:
    """By how much frames of this height are enlarged so that a person sees them."""
    return max(1, round(VIEWED_HEIGHT / height))


def as_pictures(frames: Frames, enlarge: int = 1) -> np.ndarray:
    """Float frames [F, H, W, 3] in 0..1 as uint8 [F, eH, eW, 3]; enlarged by repeating pixels, never smoothed."""
    pixels: np.ndarray = np.round(np.clip(frames, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels.repeat(enlarge, axis=1).repeat(enlarge, axis=2) if enlarge > 1 else pixels


def amplification(uncached: Frames, cached: Frames) -> int:
    """The round factor that brings the larger differences (the 99.5th percentile) near to full brightness."""
    largest = float(np.quantile(np.abs(uncached - cached), 0.995))
    if largest <= 0.0:
        return FACTORS[-1]
    return max((factor for factor in FACTORS if factor * largest <= 1.0), default=1)


def difference(uncached: Frames, cached: Frames, factor: int) -> Frames:
    """Absolute difference times ``factor``, cut off at 1: black where the two agree."""
    amplified: Frames = np.clip(np.abs(uncached - cached) * factor, 0.0, 1.0)
    return amplified


def difference_label(uncached: Frames, cached: Frames, factor: int) -> str:
    """What to write over the difference."""
    return "no difference" if np.array_equal(uncached, cached) else f"difference x{factor}"


@lru_cache(maxsize=8)
def font(size: int, bold: bool = False, family: str = USUAL) -> Any:
    """A font ``size`` pixels high; DejaVu Sans, which comes with matplotlib, where no other is asked for."""
    need("plots")
    from PIL import ImageFont

    return ImageFont.truetype(font_path(family, bold) or font_path(USUAL, bold) or "", size)


def labelled_row(columns: dict[str, np.ndarray], gap: int = 8) -> np.ndarray:
    """Videos of one size side by side, each under its label.

    Args:
        columns: label to pictures, uint8 [F, H, W, 3].
        gap: pixels between and around.

    Returns:
        uint8 [F, H', W', 3].
    """
    need("plots")
    from PIL import Image, ImageDraw

    videos = list(columns.values())
    count, height, width, _ = videos[0].shape
    band = max(20, round(height * 0.09))
    sheet = Image.new("RGB", (gap + len(videos) * (width + gap), band + height + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, label in enumerate(columns):
        middle = gap + index * (width + gap) + width // 2
        draw.text(
            (middle, band // 2), label, fill=INK, font=fitting_font(label, width, round(band * 0.58)), anchor="mm"
        )
    canvas = np.broadcast_to(np.asarray(sheet), (count, *np.asarray(sheet).shape)).copy()
    for index, video in enumerate(videos):
        left = gap + index * (width + gap)
        canvas[:, band : band + height, left : left + width] = video
    return canvas


def fitting_font(text: str, width: int, size: int) -> Any:
    """The font at ``size``, or as much smaller as ``text`` needs to fit into ``width`` pixels."""
    while size > 8 and font(size, True).getlength(text) > width:
        size -= 1
    return font(size, True)


def storyboard(uncached: Frames, cached: Frames, title: str, subtitle: str = "", columns: int = 6) -> Any:
    """Frames spread over the video in three rows: uncached, cached, amplified difference.

    Args:
        uncached: float [F, H, W, 3] in 0..1.
        cached: the same shape.
        title: above, usually the prompt.
        subtitle: below it, usually figures.
        columns: frames shown, at most.

    Returns:
        A PIL picture.
    """
    need("plots")
    from PIL import Image, ImageDraw

    picked = np.unique(np.linspace(0, len(uncached) - 1, min(columns, len(uncached))).round().astype(int))
    factor = amplification(uncached, cached)
    rows = {
        "uncached": uncached[picked],
        "cached": cached[picked],
        difference_label(uncached, cached, factor): difference(uncached, cached, factor)[picked],
    }
    height, width = _cell(uncached.shape[1], uncached.shape[2])
    margin, gap, left, top, foot = 20, 6, 150, 84, 34
    size = (left + len(picked) * (width + gap) - gap + margin, top + 3 * (height + gap) + foot)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    line, family = drawable(title)
    above = font(21, True, family)
    draw.text((margin, 16), _cut(line, above, size[0] - 2 * margin), fill=INK, font=above)
    draw.text((margin, 47), _cut(subtitle, font(16), size[0] - 2 * margin), fill=GREY, font=font(16))
    for row, (label, frames) in enumerate(rows.items()):
        y = top + row * (height + gap)
        draw.text((left - 14, y + height // 2), _broken(label), INK, font(16, True), anchor="rm", align="right")
        for column, picture in enumerate(as_pictures(frames)):
            small = Image.fromarray(picture)
            method = Image.Resampling.NEAREST if picture.shape[0] < height else Image.Resampling.LANCZOS
            sheet.paste(small.resize((width, height), method), (left + column * (width + gap), y))
    for column, index in enumerate(picked):
        middle = left + column * (width + gap) + width // 2
        draw.text((middle, size[1] - foot // 2 - 1), f"frame {index + 1}", fill=GREY, font=font(14), anchor="mm")
    return sheet


def save_storyboard(uncached: Frames, cached: Frames, path: Path, title: str, subtitle: str = "") -> None:
    """Write `storyboard` as a PNG."""
    storyboard(uncached, cached, title, subtitle).save(path, optimize=True)


def _cell(height: int, width: int) -> tuple[int, int]:
    """Height and width of a storyboard frame: whole multiples of small frames, larger ones brought down."""
    if height <= 192:
        enlarge = max(1, round(160 / height))
        return height * enlarge, width * enlarge
    return 180, round(width * 180 / height)


def _broken(label: str) -> str:
    return label.replace(" ", "\n")


def _cut(text: str, face: Any, width: int) -> str:
    """``text``, shortened to ``width`` pixels."""
    if face.getlength(text) <= width:
        return text
    too_long = bisect.bisect_left(range(len(text)), True, key=lambda end: face.getlength(text[:end] + "…") > width)
    return text[: max(too_long - 1, 0)].rstrip() + "…"
