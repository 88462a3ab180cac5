"""Which settings of a ladder go on from few videos to many: those near its own front, around the levels asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bwcache.study import Result
from bwcache.study.results import CEILING, speedup_at

LEVELS = (30.0, 35.0, 40.0)
"""Mean PSNR in dB at which speeds are compared."""


def decibels(row: Result) -> float:
    """Return the mean PSNR; a video without any difference counts as the ceiling."""
    return float(np.mean([min(cell.quality.get("psnr") or CEILING, CEILING) for cell in row.cells]))


def near(rows: Sequence[Result], apart: float, slower: float, levels: Sequence[float] = LEVELS) -> list[Result]:
    """Return those near the front of their own family, and no further from the levels than the front's next ones.

    Args:
        rows: of one family; those without results are left out.
        apart: so many dB below the front may a row lie,
        slower: or do so much more work than the front does for the same, as a share of it.
        levels: in dB, ascending.
    """
    known = [row for row in rows if row.cells and row.compute is not None]
    if not known:
        return []
    points = sorted((row.compute or 0.0, decibels(row)) for row in known)
    work = np.array([share for share, _ in points])
    best = np.maximum.accumulate([height for _, height in points])
    low = max((height for height in best if height <= levels[0]), default=best.min())
    high = min((height for height in best if height >= levels[-1]), default=best.max())

    def fine(row: Result) -> bool:
        share, height = row.compute or 0.0, decibels(row)
        if not low - apart <= height <= high + apart:
            return False
        here, before = np.interp([share, share / (1 + slower)], work, best)
        return bool(height >= here - apart or height >= before)

    return [row for row in known if fine(row)]


def further(rows: Sequence[Result], known: Sequence[Result], levels: Sequence[float] = LEVELS) -> list[Result]:
    """Return what is still to be run so that a family reaches from below the lowest level to above the highest one.

    Args:
        rows: of one family, on these videos.
        known: all of its settings, on fewer videos.
        levels: in dB, ascending.

    Returns:
        Of `known` the next more careful one, the next bolder one, both or neither.
    """
    done = {row.label for row in rows}
    left = [row for row in known if row.cells and row.label not in done and row.compute is not None]
    ran = [row for row in known if row.cells and row.label in done]
    heights = [decibels(row) for row in rows if row.cells]
    if not ran or not heights:
        return []
    best, fastest = max(ran, key=decibels), min(ran, key=_work)
    careful = [row for row in left if decibels(row) > decibels(best) and _work(row) > _work(best)]
    bold = [row for row in left if _work(row) < _work(fastest)]
    found = [min(careful, key=_work)] if careful and max(heights) < levels[-1] else []
    return [*found, max(bold, key=_work)] if bold and min(heights) > levels[0] else found


def _work(row: Result) -> float:
    return row.compute or 0.0


def leading(families: dict[str, list[Result]], behind: float, levels: Sequence[float] = LEVELS) -> set[str]:
    """Return the families that are at most so many times slower than the fastest one at some level.

    All of them where nobody reaches any level.
    """
    found = set()
    for level in levels:
        speeds = {name: speedup_at(rows, level)[0] or 0.0 for name, rows in families.items()}
        best = max(speeds.values(), default=0.0)
        found |= {name for name, speed in speeds.items() if speed and speed * behind >= best}
    return found or set(families)
