"""The table: a line for each row, the same in CSV and in parquet, and never held as a whole."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bwcache.core.decision import Action
from bwcache.core.trace import Event, Trace
from bwcache.fleet import table
from bwcache.fleet.figures import estimated_speedup, in_all
from bwcache.fleet.table import COLUMNS, row, write_table
from bwcache.measure.call import Call

FIGURES = {"prompt": "a, b", "seed": 3, "policy": {"name": "BWCache", "threshold": 0.1}, "notes": ["x"], "seconds": 1.5}


def rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield row(number, "made", FIGURES) if number % 2 else row(number, "failed", failed="too\nlarge")


def test_what_is_known_stands_in_its_column() -> None:
    made = row(7, "made", FIGURES, folder="videos/x")
    assert list(made) == list(COLUMNS)
    assert (made["line"], made["policy"], made["settings"], made["notes"]) == (
        7,
        "BWCache",
        '{"threshold": 0.1}',
        '["x"]',
    )
    assert (made["failed"], made["folder"]) == (None, "videos/x")


def test_csv_alone_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "find_spec", lambda name: None)
    assert write_table(tmp_path, rows(3)) == [tmp_path / "table.csv"]
    with (tmp_path / "table.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [one["state"] for one in found] == ["failed", "made", "failed"]
    assert (found[0]["failed"], found[1]["prompt"], found[1]["seed"]) == ("too\nlarge", "a, b", "3")


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    count = 2 * table.BATCH + 3
    assert [path.name for path in write_table(tmp_path, rows(count))] == ["table.csv", "table.parquet"]
    found = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert found == list(rows(count))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.parquet"]


def test_a_failure_in_the_middle_leaves_the_earlier_table(tmp_path: Path) -> None:
    write_table(tmp_path, rows(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken() -> Iterator[dict[str, Any]]:
        yield from rows(2000)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_table(tmp_path, broken())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_long_table_is_never_held(tmp_path: Path) -> None:
    write_table(tmp_path, rows(10))
    tracemalloc.start()
    try:
        write_table(tmp_path, rows(20_000))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8_000_000


def event(step: int, action: Action, seconds: float | None, site: str = "stack") -> Event:
    return Event(0, step, 9, None, None, "cond", site, action, "reason", None, (), seconds)


def test_the_estimated_speedup_puts_a_computed_row_in_place_of_each_reused_one() -> None:
    trace = Trace({}, [event(0, "compute", 2.0), event(1, "compute", 4.0), event(2, "compute", 2.0)])
    assert estimated_speedup(trace, 8.0) == 1.0
    trace.events += [event(3, "reuse", 0.0), event(4, "reuse", 0.5)]
    assert estimated_speedup(trace, 8.5) == (8.5 + 2.0 + 1.5) / 8.5
    trace.events.append(event(5, "reuse", None))
    assert estimated_speedup(trace, 8.5) is None
    assert estimated_speedup(Trace(), None) is None


def test_what_a_speedup_of_the_denoising_is_in_all() -> None:
    """10 s, 6 of them denoising that is estimated as twice as fast: without it 16."""
    made = Call(np.zeros((1, 1, 1, 3), np.float32), 10.0, 6.0, before_seconds=1.0)
    assert made.after_seconds == 3.0
    assert in_all(2.0, made) == 1.6
    assert in_all(None, made) is None
    assert in_all(2.0, Call(made.frames, 10.0, None)) is None
