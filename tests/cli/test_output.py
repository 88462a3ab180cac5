import json
import os

import pytest

from bwcache.cli.output import foreign_entries, whole_folder
from bwcache.errors import SettingError


def results(folder, text="new"):
    """What the command writes, in small."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"model": {}, "policy": {}, "runs": []}))
    (folder / "01-a").mkdir()
    (folder / "01-a" / "trace.jsonl").write_text(text)


def fail_after(write, folder, error):
    write(folder)
    raise error


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_folder_appears_when_all_is_written(tmp_path):
    target = tmp_path / "a" / "b" / "out"
    with whole_folder(target) as part:
        results(part)
        assert not target.exists()
        assert part.parent == target.parent  # the same disk, so that renaming is possible
    assert everything(target) == ["01-a", "01-a/trace.jsonl", "summary.json"]
    assert everything(tmp_path / "a" / "b") == ["out", "out/01-a", "out/01-a/trace.jsonl", "out/summary.json"]


def test_an_empty_folder_is_filled_and_permissions_are_the_usual_ones(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    usual = target.stat().st_mode
    with whole_folder(target) as part:
        results(part)
    assert (target / "summary.json").is_file()
    assert target.stat().st_mode == usual


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_a_failure(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / "a" / "b" / "out") as part:
        fail_after(results, part, error)
    assert everything(tmp_path) == []


def test_a_failure_leaves_earlier_results_as_they_were(tmp_path):
    target = tmp_path / "out"
    results(target, "old")
    with pytest.raises(RuntimeError), whole_folder(target, overwrite=True) as part:
        fail_after(results, part, RuntimeError)
    assert (target / "01-a" / "trace.jsonl").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_earlier_results_are_replaced_when_asked(tmp_path):
    target = tmp_path / "out"
    results(target, "old")
    (target / "02-b").mkdir()
    with whole_folder(target, overwrite=True) as part:
        results(part)
    assert (target / "01-a" / "trace.jsonl").read_text() == "new"
    assert not (target / "02-b").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failing_rename_brings_earlier_results_back(tmp_path, monkeypatch):
    target = tmp_path / "out"
    results(target, "old")
    rename = type(target).rename

    def failing(path, where):
        if path.suffix == ".part":
            raise OSError("disk is gone")
        return rename(path, where)

    monkeypatch.setattr(type(target), "rename", failing)
    with pytest.raises(OSError, match="disk is gone"), whole_folder(target, overwrite=True) as part:
        results(part)
    assert (target / "01-a" / "trace.jsonl").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def refused(target, overwrite=False):
    with pytest.raises(SettingError) as caught, whole_folder(target, overwrite):
        pytest.fail("the folder was given")
    return str(caught.value)


def test_what_must_not_be_replaced(tmp_path, monkeypatch):
    target = tmp_path / "out"
    results(target)
    assert "--overwrite" in refused(target)
    (target / "thesis.txt").write_text("years of work")
    assert "thesis.txt" in refused(target, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text("{}")
    assert "summary.json" in refused(other, overwrite=True)
    file = tmp_path / "file"
    file.write_text("")
    assert "found a file" in refused(file, overwrite=True)
    empty = tmp_path / "here" / "below"
    empty.mkdir(parents=True)
    monkeypatch.chdir(empty)
    assert "current folder" in refused(empty)
    assert "current folder" in refused(tmp_path / "here", overwrite=True)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(tmp_path / "file" / "out")
    assert "cannot be written" in refused(type(tmp_path)("/proc/out"))
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "cannot be written" in refused(tmp_path / "locked" / "out")


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with whole_folder(tmp_path / "out") as part:
        results(part)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "summary.json").is_file()


def test_what_is_ours(tmp_path):
    results(tmp_path)
    assert foreign_entries(tmp_path) == []
    (tmp_path / "01").mkdir()
    (tmp_path / ".notes").write_text("")
    assert foreign_entries(tmp_path) == [".notes", "01"]


def test_somebody_else_fills_the_folder_meanwhile(tmp_path):
    target = tmp_path / "out"

    def interfere(part):
        results(part)
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")

    with pytest.raises(SettingError), whole_folder(target) as part:
        interfere(part)
    assert everything(tmp_path) == ["out", "out/thesis.txt"]
