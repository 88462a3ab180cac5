"""Prompt files row by row: what is read, and what is said of a line that cannot be."""

from __future__ import annotations

import os
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bwcache import MissingExtraError, SettingError
from bwcache.fleet import prompt_file
from bwcache.fleet.prompt_file import LONGEST, Line, read_lines


def lines(folder: Path, name: str, content: str | bytes) -> list[Line]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_lines(path))


def rows(found: list[Line]) -> list[tuple[int, Any]]:
    return [(line.number, dict(line.values)) for line in found if line.fault is None]


def faults(found: list[Line]) -> list[tuple[int, str]]:
    return [(line.number, line.fault) for line in found if line.fault is not None]


def test_a_text_has_a_prompt_per_line_but_for_empty_ones_and_comments(tmp_path: Path) -> None:
    found = lines(tmp_path, "a.txt", b"\xef\xbb\xbf# of mine\n\n a red ball \r\na caf\xc3\xa9\nb\xff\n")
    assert rows(found) == [(3, {"prompt": "a red ball"}), (4, {"prompt": "a café"})]
    assert faults(found) == [(5, "found a line that is not UTF-8; expected text; save the file as UTF-8")]


def test_json_lines_have_an_object_each_and_null_is_nothing(tmp_path: Path) -> None:
    text = '{"prompt": "a", "seed": 3, "steps": null}\n\n[1]\n{"a": NaN}\n{"prompt"\n{"prompt": "b"}'
    found = lines(tmp_path, "a.jsonl", text)
    assert rows(found) == [(1, {"prompt": "a", "seed": 3}), (6, {"prompt": "b"})]
    (array, _), (number, why), (cut, _) = faults(found)
    assert (array, number, cut) == (3, 4, 5)
    assert "the number NaN is not finite" in why
    assert all("; expected an object; write such as {" in said for _, said in faults(found))


def test_csv_has_texts_by_column_and_lines_are_those_of_the_file(tmp_path: Path) -> None:
    text = '\ufeffprompt, seed,steps\n"a, with\ntwo lines",3,\n\nb,4\n,,\nc,5,6\n'
    found = lines(tmp_path, "a.CSV", text)
    assert rows(found) == [
        (2, {"prompt": "a, with\ntwo lines", "seed": "3"}),
        (7, {"prompt": "c", "seed": "5", "steps": "6"}),
    ]
    assert [number for number, _ in faults(found)] == [5]
    assert faults(found)[0][1].startswith("found 2 values for 3 columns; ")
    broken = lines(tmp_path, "b.csv", 'prompt\n"a" b\nc\n')
    assert (rows(broken), [number for number, _ in faults(broken)]) == ([(3, {"prompt": "c"})], [2])


@pytest.mark.parametrize("head", ["", "prompt,prompt\n", "prompt,\n", '"prompt" x\n'])
def test_columns_that_cannot_be_are_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(SettingError, match=r"in line 1 of '.*a\.csv'; expected the name of each column once"):
        lines(tmp_path, "a.csv", head)


def test_a_line_without_end_is_not_held(tmp_path: Path) -> None:
    found = lines(tmp_path, "a.txt", b"a\n" + b"b" * (3 * LONGEST) + b"\nc\n")
    assert rows(found) == [(1, {"prompt": "a"}), (3, {"prompt": "c"})]
    assert faults(found) == [(2, f"found a line of more than {LONGEST} bytes; expected a shorter one; cut it")]


@pytest.mark.parametrize("name", ["missing.txt", "missing.jsonl", "missing.csv"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=r"that cannot be read \(No such file"):
        list(read_lines(tmp_path / name))


def test_parquet_by_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"prompt": ["a", "b"], "seed": [1, None], "scale": [float("nan"), 2.5]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert rows(list(read_lines(tmp_path / "a.parquet"))) == [
        (1, {"prompt": "a", "seed": 1}),
        (2, {"prompt": "b", "scale": 2.5}),
    ]
    with pytest.raises(SettingError, match="expected a parquet file"):
        lines(tmp_path, "b.parquet", "no parquet")
    with pytest.raises(SettingError, match="cannot be read"):
        list(read_lines(tmp_path / "missing.parquet"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_file, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bwcache\[parquet\]'"):
        lines(tmp_path, "a.parquet", "anything")


@pytest.mark.parametrize(
    ("name", "line"), [("a.txt", "p{}\n"), ("a.jsonl", '{{"prompt": "p{}"}}\n'), ("a.csv", "p{}\n")]
)
def test_a_long_file_is_never_held(tmp_path: Path, name: str, line: str) -> None:
    path = tmp_path / name
    with path.open("w") as file:
        file.write("prompt\n")
        file.writelines(line.format(number) for number in range(30_000))
    read = read_lines(path)
    list(islice(read, 100))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count > 29_000
    assert most < 200_000


def test_a_pipe_is_refused_since_rows_are_read_more_than_once(tmp_path: Path) -> None:
    """As in `--prompts <(head prompts.txt)`: the second reading found nothing, and no video was made."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match="a pipe or device, which can be read but once; expected a file; write the"):
        next(read_lines(tmp_path / "pipe"))
