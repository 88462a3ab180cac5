"""What a person wants of a tuning: a word for a quality, decibels, or a speed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.policies.grades import GRADES


@dataclass(frozen=True)
class Wish:
    """One of both.

    Attributes:
        psnr: mean PSNR against the uncached videos, dB.
        speed: steps over computed steps.
    """

    psnr: float | None = None
    speed: float | None = None

    def __str__(self) -> str:
        return f"{self.psnr:g} dB" if self.psnr is not None else f"{self.speed:g}x"


def wish(text: str) -> Wish:
    """Return what is wanted.

    Args:
        text: near, balanced or fast; a mean PSNR such as 35dB; or a speed such as 3x.

    Raises:
        SettingError: it is none of these.
    """
    plain = text.strip().lower()
    if plain in GRADES:
        return Wish(psnr=GRADES[plain].psnr)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(db|x)", plain)
    if found is None:
        expected = f"{', '.join(GRADES)}, a quality such as 35dB, or a speed such as 3x"
        raise SettingError(complaint(f"grade {shown(text)}", expected, "name one of them"))
    number, unit = float(found[1]), found[2]
    if unit == "db":
        if not 10 <= number <= 80:
            raise SettingError(complaint(f"grade {shown(text)}", "10dB to 80dB", "try 35dB"))
        return Wish(psnr=number)
    if number <= 1:
        raise SettingError(complaint(f"grade {shown(text)}", "a speed above 1x", "try 3x"))
    return Wish(speed=number)
