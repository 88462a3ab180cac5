"""Rows of a prompt file, one after the other: a text with a prompt per line, JSON lines, CSV, or parquet.

A file is never held as a whole. What is wrong with a line is said of that line, and the next one is read.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from bwcache.core.files import parse_json
from bwcache.core.words import shown
from bwcache.errors import MissingExtraError, SettingError, complaint

LONGEST = 1 << 20
"""Bytes of a line."""
LONGEST_PATH = 250
"""Letters of a path that a complaint repeats."""
BATCH = 256
"""Rows of a parquet file that are read together."""


@dataclass(frozen=True)
class Line:
    """One row as it stands in the file.

    Attributes:
        number: of its line, or of its row in a parquet file; from 1.
        values: by the names of the columns; those that are empty are left out. Of a CSV file all are texts.
        fault: why it cannot be read; None where it can.
    """

    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the rows of a prompt file.

    Raises:
        SettingError: it cannot be read, or its columns cannot.
    """
    kinds = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}
    read: Callable[[Path], Iterator[Line]] = kinds.get(path.suffix.lower(), _text_lines)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            found = f"prompt file {named(path)}, a pipe or device, which can be read but once"
            raise SettingError(complaint(found, "a file", "write the rows into one"))
        yield from read(path)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        found = f"prompt file {named(path)} that cannot be read ({reason})"
        raise SettingError(complaint(found, "a .txt, .jsonl, .csv or .parquet file", "name such a file")) from error


def named(path: Path) -> str:
    """Return how a complaint calls a file."""
    return shown(str(path), LONGEST_PATH)


def _text_lines(path: Path) -> Iterator[Line]:
    for number, text in _lines(path):
        if isinstance(text, Line):
            yield text
        elif text.strip() and not text.strip().startswith("#"):
            yield Line(number, {"prompt": text.strip()})


def _json_lines(path: Path) -> Iterator[Line]:
    for number, text in _lines(path):
        if isinstance(text, Line):
            yield text
        elif text.strip():
            yield _json_line(number, text.strip())


def _json_line(number: int, text: str) -> Line:
    try:
        found = parse_json(text)
    except ValueError as error:
        return Line(number, fault=f"found {shown(text)}, no JSON ({error}); expected an object; write such as {{...}}")
    if not isinstance(found, dict):
        return Line(number, fault=f'found {shown(text)}; expected an object; write such as {{"prompt": "a red ball"}}')
    return Line(number, {name: value for name, value in found.items() if value is not None})


def _csv_rows(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            columns = [name.strip() for name in next(rows, [])]
        except csv.Error as error:
            raise _no_columns(path, str(error)) from error
        if len(set(columns)) < len(columns) or "" in columns or not columns:
            raise _no_columns(path, f"the columns {', '.join(map(shown, columns)) or 'none'}")
        while True:
            start = rows.line_num + 1
            try:
                values = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Line(start, fault=f"found a row that is no CSV ({error}); expected values in quotes; mend it")
                continue
            if len(values) not in (0, len(columns)):
                found = f"found {len(values)} values for {len(columns)} columns"
                yield Line(start, fault=f"{found}; expected one for each; put those with a comma into quotes")
            elif any(values):
                yield Line(start, {name: value for name, value in zip(columns, values, strict=True) if value.strip()})


def _parquet_rows(path: Path) -> Iterator[Line]:
    if find_spec("pyarrow") is None:
        found = f"prompt file {named(path)} and no pyarrow"
        raise MissingExtraError(complaint(found, "bwcache with its extra parquet", "pip install 'bwcache[parquet]'"))
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Line(number, {name: value for name, value in row.items() if not _is_empty(value)})
    except pyarrow.ArrowException as error:
        found = f"prompt file {named(path)} that cannot be read ({' '.join(str(error).split())[:120]})"
        raise SettingError(complaint(found, "a parquet file", "write it anew")) from error


def _is_empty(value: Any) -> bool:
    """Whether it stands for no value: pandas writes NaN into a column of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _lines(path: Path) -> Iterator[tuple[int, str | Line]]:
    """Each line with its number, as text; or as a `Line` that says why it is none."""
    with path.open("rb") as file:
        for number, line in enumerate(_pieces(file), start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if len(line) > LONGEST:
                yield (
                    number,
                    Line(number, fault=f"found a line of more than {LONGEST} bytes; expected a shorter one; cut it"),
                )
                continue
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError:
                yield (
                    number,
                    Line(number, fault="found a line that is not UTF-8; expected text; save the file as UTF-8"),
                )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Lines, cut off where they are longer than any that is read."""
    while line := file.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(b"\n"):  # what is left of it
            line = file.readline(LONGEST + 1)


def _no_columns(path: Path, what: str) -> SettingError:
    found = f"{what} in line 1 of {named(path)}"
    return SettingError(complaint(found, "the name of each column once", "write such as prompt,seed,steps"))
