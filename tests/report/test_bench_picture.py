"""What is said of the methods of a bench, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bwcache.report.bench import plot_methods, remarks, saved_nothing
from bwcache.study.folder import Cell
from bwcache.study.results import results


def cell(family: str, setting: int, compute: float | None, psnr: float | None, **more: Any) -> Cell:
    return Cell(
        family, f"{family} ({setting})", {"setting": setting}, "a red circle", 0, compute,
        denoise_seconds=compute, uncached_denoise_seconds=1.0, quality={} if psnr is None else {"psnr": psnr}, **more,
    )  # fmt: skip


CELLS = [
    cell("BWCache", 1, 0.8, 41.0),
    cell("BWCache", 2, 0.4, 29.0),
    cell("PAB", 1, 0.9, 33.0, notes=("skips attention only",)),
    cell("PAB", 2, 0.7, 30.0, notes=("skips attention only",)),
    cell("SeaCache", 1, 1.0, None, identical=True, notes=("not told the step",)),
    cell("SeaCache", 2, 0.5, 32.0),
    cell("DBCache", 1, None, None, failed="found no cache-dit; expected it; install it"),
]


def test_each_thing_is_said_once_of_all_whom_it_concerns() -> None:
    rows = results(CELLS)
    assert saved_nothing(rows) == ["SeaCache (1)"]
    assert remarks(rows) == {
        "skips attention only": ["PAB"],
        "not told the step": ["SeaCache (1)"],
        "saved nothing: every layer of the blocks ran, so there is no speedup to give": ["SeaCache (1)"],
        "failed: found no cache-dit; expected it; install it": ["DBCache"],
    }


def drawn(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_picture_has_a_line_per_method_that_ran(tmp_path: Path) -> None:
    rows = results(CELLS)
    plot_methods(rows, tmp_path / "all.png", "a title")
    plot_methods([row for row in rows if row.family != "BWCache"], tmp_path / "fewer.png", "a title")
    blue = (0x00, 0x72, 0xB2)  # the colour of this project's first method
    assert (drawn(tmp_path / "all.png") == blue).all(-1).sum() > 200
    assert not (drawn(tmp_path / "fewer.png") == blue).all(-1).any()


def test_a_bench_in_which_nothing_ran_has_a_picture_too(tmp_path: Path) -> None:
    plot_methods(results(CELLS[-1:]), tmp_path / "none.png")
    assert drawn(tmp_path / "none.png").std() > 1
