"""Whole files or none, and JSON that can always be written and never holds what is no JSON."""

import json
import os
import threading

import pytest

from bwcache.core.files import parse_json, read_json, remove_parts, whole_file, write_json, write_once, write_text


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def break_off():
        with whole_file(path) as part:
            assert part.suffix == ".txt"  # by which programs tell what to write
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == "before"
    with whole_file(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_write_once_one_does(tmp_path, monkeypatch, links):
    def none(*names):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", none)
    path, barrier, said = tmp_path / "file.json", threading.Barrier(8), {}

    def write(number):
        barrier.wait()
        said[number] = write_once(path, f"by {number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (number for number, won in said.items() if won)
    assert path.read_text() == f"by {winner}"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_whose_answer_was_lost_is_ones_own(tmp_path, monkeypatch):
    link = os.link

    def asked_twice(*names):
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", asked_twice)
    assert write_once(tmp_path / "file.json", "mine")
    assert not write_once(tmp_path / "file.json", "not mine")
    assert (tmp_path / "file.json").read_text() == "mine"


def test_names_as_long_as_a_file_system_takes(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    write_json(path, [1])
    assert read_json(path) == [1]


def test_letters_that_utf8_lacks_are_read_back(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"prompt": "caf\udce9, 猫, \\udce9"})
    assert "猫" in path.read_bytes().decode("utf-8")
    assert read_json(path) == {"prompt": "caf\udce9, 猫, \\udce9"}
    write_text(path, "\udce9")
    assert path.read_text() == "\\udce9"


@pytest.mark.parametrize(
    "text", ["NaN", "[-Infinity]", "1e999", "[" * 100_000, '{"a":' * 100_000, "", "{", "1" * 5000, '{"a": 1, "a": 2}']
)
def test_what_is_no_strict_json(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "file.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(tmp_path / "file.json") == {"a": 1}


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "file.json", [float("nan")])
    assert list(tmp_path.iterdir()) == []
    assert json.dumps(parse_json("[0.5, 1e3, 7]")) == "[0.5, 1000.0, 7]"


def test_what_killed_processes_left(tmp_path):
    (tmp_path / "cells").mkdir()
    for name in (".bwcache-part-12ab.json", "cells/.bwcache-part-34cd.json", ".notes", "cells/a.json"):
        (tmp_path / name).write_text("")
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".notes", "a.json", "cells"]
