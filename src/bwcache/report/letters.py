"""Text of any language in pictures: by a font that has its letters, else by what can be drawn of it."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

from bwcache.extras import need

USUAL = "DejaVu Sans"
"""Comes with matplotlib."""

FAMILIES = (
    USUAL,
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
)
"""Fonts that are tried in this order, where they are installed; the others have Chinese and Japanese letters."""


def drawable(text: str) -> tuple[str, str]:
    """Return a text as it can be drawn, on one line, and the family of the font for it.

    Letters that no font here has become their ASCII form where there is one, else their escape, such as ``\\u732b``.
    """
    line = " ".join(text.split())
    family = next((name for name in FAMILIES if set(map(ord, line)) <= glyphs(name)), USUAL)
    known = glyphs(family)
    return "".join(letter if ord(letter) in known else _plain(letter) for letter in line), family


@lru_cache(maxsize=len(FAMILIES))
def glyphs(family: str) -> frozenset[int]:
    """Return the code points of the letters that a font has; none where it is not installed."""
    need("plots")
    from matplotlib.ft2font import FT2Font

    path = font_path(family)
    return frozenset() if path is None else frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=2 * len(FAMILIES))
def font_path(family: str, bold: bool = False) -> str | None:
    """Return the file of a font, or None where it is not installed."""
    from matplotlib.font_manager import FontProperties, findfont

    try:
        wanted = FontProperties(family=family, weight="bold" if bold else "normal")
        return findfont(wanted, fallback_to_default=False)
    except ValueError:
        return None


def set_title(figure: Any, text: str) -> None:
    """Write a title above a figure of matplotlib, letter by letter: a dollar sign is no formula."""
    line, family = drawable(text)
    figure.suptitle(line, fontsize=12, weight="bold", family=family, parse_math=False)


def _plain(letter: str) -> str:
    ascii_form = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return ascii_form if ascii_form.isprintable() and ascii_form else letter.encode("unicode_escape").decode()
