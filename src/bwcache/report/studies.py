"""What a person and a program see of a study: a table of its rows, the speedup at a given PSNR, JSON and CSV."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bwcache.core.amounts import size
from bwcache.core.files import whole_file, write_json
from bwcache.extras import need
from bwcache.report.tables import decibels, measured_words, percent, times
from bwcache.study.folder import Cell
from bwcache.study.results import Axis, Result, front, speedup_at, speedup_interval

LEVELS = (25.0, 30.0, 35.0, 40.0)
"""PSNR in dB at which families are compared."""

MEASURES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "ms_ssim": "MS-SSIM",
    "vmaf": "VMAF",
    "xpsnr": "XPSNR",
    "motion_kept": "Motion kept",
}
BESIDE = ("ms_ssim", "lpips", "vmaf", "xpsnr", "motion_kept")
"""That have a column where anything has them."""
FRONTS = ("psnr", "ssim", "lpips")


def fronts(rows: Sequence[Result], axis: Axis = "time") -> dict[str, list[str]]:
    """Measure -> labels of the rows on the Pareto front of speed against it, fastest first; measured ones only."""
    measured = [name for name in FRONTS if any(row.mean(name) is not None for row in rows)]
    return {name: [row.label for row in front(rows, name, axis)] for name in measured}


def families(rows: Iterable[Result]) -> dict[str, list[Result]]:
    """Family -> its rows, both in the order of the rows."""
    found: dict[str, list[Result]] = {}
    for row in rows:
        found.setdefault(row.family, []).append(row)
    return found


def levels(rows: Sequence[Result], axis: Axis = "time") -> list[dict[str, Any]]:
    """One plain row per family and PSNR of `LEVELS`: the speedup along its own best settings, with its interval."""
    found = []
    for family, own in families(rows).items():
        for level in LEVELS:
            speed, mark = speedup_at(own, level, axis)
            placed = [row for row in own if row.at(axis) is not None]
            interval = None if speed is None else speedup_interval(placed, level, axis)
            found.append(
                {"family": family, "psnr": level, "axis": axis, "speedup": speed, "bound": mark, "interval": interval}
            )
    return found


def by_speed(rows: Iterable[Result]) -> list[Result]:
    """The fastest first; those without a result last."""
    return sorted(rows, key=lambda row: -(row.timed_speedup or 0.0))


def rows_table(rows: Sequence[Result]) -> Any:
    """A rich table, one line per row, the fastest first.

    The first column names the fronts that a row is on, by the initials of PSNR, SSIM and LPIPS.
    """
    need("cli")
    from rich.table import Table
    from rich.text import Text

    on = fronts(rows)
    shown = [name for name in BESIDE if any(row.mean(name) is not None for row in rows)]
    table = Table(header_style="bold", pad_edge=False, title_justify="left")
    table.add_column("front", style="bold green", no_wrap=True)
    table.add_column("settings", min_width=22)
    heads = ["steps", "work saved", "speedup", "PSNR", "worst", "SSIM", "worst"]
    for head in [*heads, *(MEASURES[name] for name in shown), "kept"]:
        table.add_column(head, justify="right", no_wrap=head != "work saved")
    for row in by_speed(rows):
        marks = "".join(MEASURES[name][0] for name, labels in on.items() if row.label in labels)
        cells = _cells(row, shown) if row.cells else ["-"] * (len(heads) + len(shown) + 1)
        table.add_row(marks, *(Text(cell) for cell in [row.label, *cells]), style="bold" if "P" in marks else None)
    return table


def _cells(row: Result, shown: Sequence[str]) -> list[str]:
    measured = [
        _number(row.mean("ssim")),
        _number(row.worst("ssim")),
        *(measured_words(name, row.mean(name), 3) for name in shown),
    ]
    return [
        "-" if row.computed is None else f"{row.computed:.3g}",
        percent(row.saved, 0),
        times(row.timed_speedup),
        "own noise" if row.own_noise else decibels(row.mean("psnr")),
        "" if row.worst("psnr") is None else f"{row.worst('psnr'):.1f}",
        *measured,
        "-" if row.kept_bytes is None else size(row.kept_bytes),
    ]


def levels_table(rows: Sequence[Result], axis: Axis = "time", title: str = "") -> Any:
    """A rich table: for each family the speedup at the PSNRs of `LEVELS`, with 95 % intervals over the videos."""
    need("cli")
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", pad_edge=False, title=title or None, title_justify="left")
    table.add_column("at a mean PSNR of")
    for level in LEVELS:
        table.add_column(f"{level:.0f} dB", justify="right", no_wrap=True)
    found = levels(rows, axis)
    for family in families(rows):
        cells = [_level(one) for one in found if one["family"] == family]
        table.add_row(*(Text(cell) for cell in [family, *cells]))
    return table


def _level(one: dict[str, Any]) -> str:
    if one["speedup"] is None:
        return "-"
    text = one["bound"] + times(one["speedup"])
    return text if one["interval"] is None else f"{text} ({one['interval'][0]:.2f}-{one['interval'][1]:.2f})"


def remarks(rows: Sequence[Result]) -> list[str]:
    """What else a reader must know: failures, what was not measured and why, identical videos, notes of the runs."""
    found = [f"{row.label}: {row.failed}" for row in rows if row.failed]
    found += [f"not measured: {reason}" for reason in dict.fromkeys(why for row in rows for why in row.unmeasured)]
    same = [f"{row.label}: {row.identical} of {len(row.cells)} videos identical" for row in rows if row.identical]
    notes: dict[str, list[str]] = {}
    for row in rows:
        for note in dict.fromkeys(note for cell in row.cells for note in cell.notes):
            notes.setdefault(note, []).append(row.label)
        for note in doubts(row):
            notes.setdefault(note, []).append(row.label)
    return found + same + [f"{', '.join(labels)}: {note}" for note, labels in notes.items()]


def doubts(row: Result) -> tuple[str, ...]:
    """Why a row has no speedup."""
    if row.saved_nothing:
        return ("saved nothing: every layer of the blocks ran, so there is no speedup to give",)
    if row.too_fast:
        return (
            "measured faster than the work it saved allows: noise of the clock, so no speedup is given; run it on a "
            "quiet machine, or time it alone with 'bwcache compare --repeats 3'",
        )
    return ()


def cell_line(cell: Cell) -> str:
    """One finished run in a line."""
    if cell.failed is not None:
        return f"{cell.label}: {cell.failed}"
    row = Result(cell.family, cell.label, cell.settings, (cell,))
    quality = "identical" if cell.identical else f"PSNR {decibels(row.mean('psnr'))}, SSIM {_number(row.mean('ssim'))}"
    if row.own_noise:
        quality = "and yet it differs: the pipeline's own noise"
    about = f"{percent(cell.saved, 0)} of the work saved, denoising {times(row.timed_speedup)}, {quality}"
    return f"{cell.label}: {about}  [{cell.prompt}, seed {cell.seed}]"


def write_study(
    folder: Path,
    name: str,
    rows: Sequence[Result],
    content: dict[str, Any],
    pictures: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Writes ``NAME.json``, ``NAME.csv`` and pictures: all of them or none.

    Args:
        folder: where; earlier files of these names are replaced.
        name: of the files.
        rows: the results; the JSON has their cells too.
        content: what else goes into the JSON.
        pictures: file name -> draws it into a path.
    """
    pictures = pictures or {}
    with contextlib.ExitStack() as stack:
        parts = {
            file: stack.enter_context(whole_file(folder / file)) for file in (f"{name}.json", f"{name}.csv", *pictures)
        }
        write_json(parts[f"{name}.json"], _as_json(rows, content))
        with parts[f"{name}.csv"].open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            _write_csv(file, rows)
        for picture, draw in pictures.items():
            draw(parts[picture])


def _as_json(rows: Sequence[Result], content: dict[str, Any]) -> dict[str, Any]:
    cells: list[Cell] = [cell for row in rows for cell in row.cells]
    return content | {
        "rows": [row.to_json() for row in by_speed(rows)],
        "fronts": fronts(rows),
        "fronts_by_compute": fronts(rows, "compute"),
        "speedup_at": [*levels(rows, "time"), *levels(rows, "compute")],
        "runs": [cell.to_json() for cell in cells],
    }


def _write_csv(file: Any, rows: Sequence[Result]) -> None:
    """One line per row; settings in columns of their own; nothing where nothing is known."""
    on = fronts(rows)
    plain = []
    for row in by_speed(rows):
        line = row.to_json()
        settings = {f"settings.{name}": value for name, value in line.pop("settings").items()}
        low, high = line.pop("psnr_interval") or (None, None)
        line |= {"notes": " | ".join(line["notes"]), "psnr_low": low, "psnr_high": high}
        line |= {f"{name}_front": row.label in labels for name, labels in on.items()}
        plain.append(line | settings)
    heads = list(dict.fromkeys(name for line in plain for name in line))
    writer = csv.DictWriter(file, heads, restval="")
    writer.writeheader()
    writer.writerows(plain)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
