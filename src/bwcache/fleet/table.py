"""A line for each row of a prompt file: what became of it. CSV for everyone, parquet where pyarrow is there."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bwcache.core.files import whole_file

TABLE = "table.csv"
BATCH = 1024
"""Rows of the parquet file that are written together."""

Rows = Iterable[Mapping[str, Any]]

COLUMNS: Mapping[str, type] = {
    "line": int,
    "state": str,
    "prompt": str,
    "seed": int,
    "steps": int,
    "height": int,
    "width": int,
    "frames": int,
    "guidance_scale": float,
    "arguments": str,
    "grade": str,
    "policy": str,
    "settings": str,
    "seconds": float,
    "denoise_seconds": float,
    "before_seconds": float,
    "after_seconds": float,
    "estimated_speedup": float,
    "estimated_speedup_in_all": float,
    "reuse_rate": float,
    "computed": int,
    "reused": int,
    "timeline": str,
    "device_bytes": int,
    "host_bytes": int,
    "device": str,
    "reasons": str,
    "notes": str,
    "folder": str,
    "failed": str,
}
"""Column -> kind of its values. `state` is made, failed, bad or missing; `failed` says why."""


def write_table(folder: Path, rows: Rows) -> list[Path]:
    """Write the table of a folder, whole or not at all, and return its files.

    Args:
        folder: of the videos.
        rows: of `row`, which are never held all at once.
    """
    paths = [folder / TABLE]
    if find_spec("pyarrow") is None:
        _write_csv(paths[0], rows)
        return paths
    paths.append(folder / Path(TABLE).with_suffix(".parquet"))
    with _parquet(paths[1]) as keep:
        _write_csv(paths[0], keep(rows))
    return paths


def row(line: int, state: str, figures: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a row of the table: what is known in each column; lists and dictionaries as JSON.

    Args:
        line: of the prompt file.
        state: made, failed, bad or missing.
        figures: of the video, if it was made.
        more: other columns.
    """
    known = {**(figures or {}), **more}
    policy = known.get("policy")
    if isinstance(policy, Mapping):
        known |= {"policy": policy.get("name"), "settings": {k: v for k, v in policy.items() if k != "name"}}
    known |= {"line": line, "state": state}
    return {name: _plain(known.get(name)) for name in COLUMNS}


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple, dict)) else value


def _write_csv(path: Path, rows: Rows) -> None:
    with whole_file(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.DictWriter(file, list(COLUMNS))
        table.writeheader()
        table.writerows(rows)


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Rows], Rows]]:
    """Give what writes rows into a parquet file as they pass by."""
    import pyarrow
    from pyarrow import parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    with whole_file(path) as part, parquet.ParquetWriter(part, schema) as writer:

        def keep(rows: Rows) -> Rows:
            rows = iter(rows)
            while some := list(itertools.islice(rows, BATCH)):
                writer.write_table(pyarrow.Table.from_pylist(some, schema))
                yield from some

        yield keep
