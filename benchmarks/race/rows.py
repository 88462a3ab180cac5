"""What came out of a setting, as the results have it: one row, and in it a line for each video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bwcache.study import Cell, Result

MEASURES = {"psnr": 3, "ssim": 5, "vmaf": 3, "xpsnr": 3}
"""That a line has behind its place and its share of the work, to so many digits; those at its end may be missing."""

UNTOLD = ("ratios", "witness", "rows", "schedule", "model", "computed", "updates", "lags", "coefficients")
"""Settings that are long, and follow from the others and from the race."""


def row_of(row: Result) -> dict[str, Any]:
    """Return a setting over its videos, ready for JSON: per video its place, its share of the work, and its quality."""
    return {
        "family": row.family,
        "label": row.label,
        "settings": {name: value for name, value in row.settings.items() if name not in UNTOLD},
        "kept_bytes": row.kept_bytes,
        "failed": row.failed,
        "videos": [_line(cell) for cell in row.cells],
    }


def _line(cell: Cell) -> list[float | int | None]:
    line = [cell.seed, short(cell.compute, 5), *(short(cell.quality.get(name), MEASURES[name]) for name in MEASURES)]
    while line[-1] is None and len(line) > 4:
        line.pop()
    return line


def short(value: float | None, digits: int) -> float | None:
    """Return a number that takes little room."""
    return None if value is None else round(value, digits)


def result_of(row: dict[str, Any]) -> Result:
    """Return the reverse of `row_of`; a video without PSNR is one without any difference."""
    whose = {name: row[name] for name in ("family", "label", "settings")}
    cells = tuple(
        Cell(
            **whose, prompt=str(place), seed=place, compute=compute, kept_bytes=row["kept_bytes"],
            quality=dict(zip(MEASURES, measured, strict=False)), identical=measured[0] is None,
        )
        for place, compute, *measured in row["videos"]
    )  # fmt: skip
    return Result(**whose, cells=cells, failed=row["failed"])


def longest(rows: Sequence[Result]) -> list[Result]:
    """Return the rows with the most videos: those that went on."""
    most = max((len(row.cells) for row in rows), default=0)
    return [row for row in rows if len(row.cells) == most]


def by_family(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the rows of each family."""
    return {name: [row for row in rows if row.family == name] for name in dict.fromkeys(row.family for row in rows)}
