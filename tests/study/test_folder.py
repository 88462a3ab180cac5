"""A study's folder: whole files or none, damage noticed, other studies refused by name."""

import json

import numpy as np
import pytest

from bwcache import SettingError
from bwcache.study import Cell, Folder
from bwcache.study.folder import check_target, key
from tests.study.cells import cell

IDENTITY = {
    "model": {"name": "shapes", "parameters": 10},
    "packages": {"bwcache": "0.1.0"},
    "request": {"steps": 30, "seed": 0},
}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "study", IDENTITY)


def only_file(folder, kind):
    (path,) = (folder.path / kind).iterdir()
    return path


def test_cells_come_back_as_they_were(folder):
    full = cell(notes=("one",), unmeasured=("why",), computed=7, reuse_rate=0.3)
    failed = Cell("B", "B (2)", {"x": None}, "q", 3, failed="found nothing")
    for one in (full, failed):
        folder.keep(one, one.family, one.settings, one.prompt, one.seed)
        assert folder.cell(one.family, one.settings, one.prompt, one.seed) == one
    assert folder.cell("B", {"x": None}, "q", 4) is None
    assert folder.damaged == []


def test_what_is_infinite_is_kept_as_unknown(folder):
    folder.keep(cell(quality={"psnr": float("inf")}), 1)
    json.loads(only_file(folder, "cells").read_text(), parse_constant=pytest.fail)
    assert folder.cell(1).quality == {"psnr": None}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: '{"cell": {}}',
        lambda text: text.replace('"prompt"', '"prompts"'),
        lambda text: text.replace('"key": [\n  1\n ]', '"key": [\n  2\n ]'),
    ],
)
def test_a_damaged_cell_is_not_there_and_is_said(folder, spoil):
    folder.keep(cell(), 1)
    path = only_file(folder, "cells")
    spoilt = spoil(path.read_text())
    assert spoilt != path.read_text()
    path.write_text(spoilt)
    assert folder.cell(1) is None
    assert folder.cell(1) is None
    assert folder.damaged == [f"cells/{path.name}"]


def test_references_come_back_to_the_bit_and_damaged_ones_do_not(folder):
    frames = np.random.default_rng(0).random((3, 4, 5, 3), dtype=np.float32)
    folder.keep_reference(frames, "p", 0)
    assert np.array_equal(folder.reference("p", 0), frames)
    assert folder.reference("p", 1) is None
    path = only_file(folder, "references")
    whole = path.read_bytes()
    for rest in (whole[: len(whole) // 2], b"", b"nothing of that kind"):
        path.write_bytes(rest)
        assert folder.reference("p", 0) is None
    assert folder.damaged == [f"references/{path.name}"]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("model", "name"), "other", "another name"),
        (("packages", "bwcache"), "0.2.0", "another bwcache"),
        (("request", "seed"), 1, "another seed"),
        (("request", "steps"), 50, "another steps"),
    ],
)
def test_another_study_is_refused_with_the_difference(folder, where, value, said):
    folder.keep(cell(), 1)
    other = json.loads(json.dumps(IDENTITY))
    found = other[where[0]][where[1]]
    other[where[0]][where[1]] = value
    with pytest.raises(SettingError, match=said) as error:
        Folder(folder.path, other)
    assert f"({found})" in str(error.value)
    assert f"({value})" in str(error.value)
    assert Folder(folder.path, IDENTITY).cell(1) == cell()


def test_other_things_are_refused_and_stay(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name, said in (
        ("thesis", "other things than a study"),
        ("file", "a file at"),
        ("file/in", "cannot be written"),
    ):
        with pytest.raises(SettingError, match=said):
            Folder(tmp_path / name, IDENTITY)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_a_study_without_a_readable_head_is_refused(folder):
    (folder.path / "study.json").write_text("{")
    with pytest.raises(SettingError, match=r"a study\.json in .* that cannot be read"):
        Folder(folder.path, IDENTITY)


def test_looking_makes_nothing(tmp_path):
    assert check_target(tmp_path / "deep" / "study") is None
    assert list(tmp_path.iterdir()) == []
    Folder(tmp_path / "deep" / "study", IDENTITY)
    assert check_target(tmp_path / "deep" / "study") == IDENTITY


def test_keys_depend_on_everything_and_on_no_order():
    assert key({"a": 1, "b": 2}, "p") == key({"b": 2, "a": 1}, "p")
    different = [
        key({"a": 1}, "p"),
        key({"a": 2}, "p"),
        key({"a": 1}, "q"),
        key({"a": 1}, "p", 0),
        key({"a": "1"}, "p"),
    ]
    assert len(set(different)) == len(different)


def test_the_claim_of_the_command_that_runs_is_no_other_thing(tmp_path):
    (tmp_path / "study" / ".bwcache").mkdir(parents=True)
    assert check_target(tmp_path / "study") is None
    Folder(tmp_path / "study", IDENTITY)
    assert check_target(tmp_path / "study") == IDENTITY
