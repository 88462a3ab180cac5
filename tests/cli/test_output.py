"""Finished things appear whole and stay; what nobody here wrote is never taken away."""

import json
import os

import pytest

from bwcache.cli.output import recorded, results, strangers
from bwcache.errors import SettingError
from bwcache.report.files import COMPARED, GENERATED, run_folder


def summary(*prompts):
    return {"model": {}, "policy": {}, "runs": [{"prompt": prompt} for prompt in prompts]}


def fill(folder, text="new"):
    folder.mkdir()
    (folder / "trace.jsonl").write_text(text)


def earlier(target, *prompts, text="old"):
    """What the command writes, in small."""
    target.mkdir(parents=True, exist_ok=True)
    for index, prompt in enumerate(prompts):
        fill(target / run_folder(index, prompt), text)
    (target / "summary.json").write_text(json.dumps(summary(*prompts)))


def add(made, *prompts):
    for prompt in prompts:
        with made.adding(run_folder(made.finished, prompt)) as folder:
            fill(folder)
        made.record(summary(*prompts[: made.finished]))


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_each_thing_appears_when_it_is_finished(tmp_path):
    target = tmp_path / "a" / "b" / "out"
    with results(target) as made:
        with made.adding("01-a") as folder:
            fill(folder)
            assert not (target / "01-a").exists()
        assert (target / "01-a" / "trace.jsonl").read_text() == "new"
        made.record(summary("a"))
        add(made)
        with made.adding("02-b") as folder:
            fill(folder)
        made.record(summary("a", "b"))
    files = ["01-a", "01-a/trace.jsonl", "02-b", "02-b/trace.jsonl", "summary.json"]
    assert everything(target) == files
    assert len(json.loads((target / "summary.json").read_text())["runs"]) == 2
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_filled_and_permissions_are_the_usual_ones(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    usual = target.stat().st_mode
    with results(target) as made:
        add(made, "a")
    assert (target / "summary.json").is_file()
    assert target.stat().st_mode == usual == (target / "01-a").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_where_nothing_was_finished(tmp_path, error):
    with pytest.raises(error), results(tmp_path / "a" / "b" / "out"):
        raise error
    assert everything(tmp_path) == []


def broken_off(made, error, finished=(), unfinished=None):
    add(made, *finished)
    if unfinished is not None:
        with made.adding(unfinished) as folder:
            fill(folder)
            raise error
    raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_is_finished_stays_and_is_said(tmp_path, capsys, error):
    target = tmp_path / "out"
    with pytest.raises(error), results(target) as made:
        broken_off(made, error, ["a", "b"])
    assert everything(target) == ["01-a", "01-a/trace.jsonl", "02-b", "02-b/trace.jsonl", "summary.json"]
    assert capsys.readouterr().err == f"bwcache: 2 finished videos are in {target}\n"


def test_a_summary_that_cannot_be_written_costs_no_video(tmp_path):
    with results(tmp_path / "out") as made:
        with made.adding("01-a") as folder:
            fill(folder)
        with pytest.raises(ValueError, match="JSON"):
            made.record({"psnr": float("inf")})
    assert everything(tmp_path / "out") == ["01-a", "01-a/trace.jsonl"]


def test_a_failure_to_write_all_costs_only_what_is_not_written(tmp_path):
    target = tmp_path / "out"
    earlier(target, "a")
    with pytest.raises(OSError, match="disk"), results(target, overwrite=True) as made:
        broken_off(made, OSError("disk is full"), unfinished="01-a")
    assert (target / "01-a" / "trace.jsonl").read_text() == "old"
    assert (target / "01-a-2" / "trace.jsonl").read_text() == "new"
    assert (target / "summary.json").is_file()


def test_an_interrupt_while_a_thing_is_written_leaves_nothing_of_it(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), results(target) as made:
        broken_off(made, KeyboardInterrupt, ["a"], unfinished="02-b")
    assert everything(target) == ["01-a", "01-a/trace.jsonl", "summary.json"]


def test_earlier_results_stay_until_something_is_finished(tmp_path):
    target = tmp_path / "out"
    earlier(target, "a", "b")
    with pytest.raises(RuntimeError), results(target, overwrite=True):
        raise RuntimeError
    assert (target / "01-a" / "trace.jsonl").read_text() == "old"
    with results(target, overwrite=True) as made:
        assert (target / "02-b").exists()
        add(made, "a")
        assert not (target / "02-b").exists()
    assert (target / "01-a" / "trace.jsonl").read_text() == "new"
    assert everything(tmp_path) == ["out", "out/01-a", "out/01-a/trace.jsonl", "out/summary.json"]


def refused(target, overwrite=False):
    with pytest.raises(SettingError) as caught, results(target, overwrite):
        pytest.fail("the folder was given")
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["2024-notes/thesis.txt", "thesis.txt", "01-a/notes.txt", "01-a/deep/notes.txt", "03-c/video.mp4", "02-b/empty/"],
)
def test_what_nobody_here_wrote_is_not_replaced(tmp_path, name):
    target = tmp_path / "out"
    earlier(target, "a", "b")
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        (target / name).mkdir()
    else:
        (target / name).write_text("years of work")
    before = everything(target)
    assert name.split("/")[0] in refused(target, overwrite=True)
    assert everything(target) == before


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path):
    target = tmp_path / "out"
    earlier(target, "a", "b")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "video.mp4").write_text("years of work")
    (target / "02-b" / "trace.jsonl").unlink()
    (target / "02-b").rmdir()
    (target / "02-b").symlink_to(tmp_path / "photos")
    assert "'02-b'" in refused(target, overwrite=True)
    assert (tmp_path / "photos" / "video.mp4").is_file()


def test_what_comes_to_lie_there_meanwhile_stays(tmp_path):
    target = tmp_path / "out"
    earlier(target, "a", "b")
    with results(target, overwrite=True) as made:
        (target / "02-b" / "notes.txt").write_text("years of work")
        (target / "01-c").write_text("mine")
        with made.adding("01-c") as folder:
            fill(folder)
    assert everything(target) == ["01-c", "01-c-2", "01-c-2/trace.jsonl", "02-b", "02-b/notes.txt"]


def test_what_must_not_be_replaced(tmp_path, monkeypatch):
    target = tmp_path / "out"
    earlier(target, "a")
    assert "--overwrite" in refused(target)
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
    assert "cannot be written (File name too long)" in refused(tmp_path / ("n" * 300))
    assert "cannot be written" in refused(type(tmp_path)("~nosuchuser/out"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be written" in refused(tmp_path / "loop" / "out")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "cannot be written" in refused(tmp_path / "locked" / "out")


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with results(tmp_path / "out") as made:
        add(made, "a")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "summary.json").is_file()


def test_what_is_ours(tmp_path):
    earlier(tmp_path, "a")
    for name in {*COMPARED, *GENERATED, ".bwcache-part-0a1b.mp4"}:
        (tmp_path / "01-a" / name).write_text("")
    assert strangers(tmp_path, recorded(tmp_path)) == []
    (tmp_path / "01").mkdir()
    (tmp_path / ".notes").write_text("")
    assert strangers(tmp_path, recorded(tmp_path)) == [".notes", "01"]


def test_every_file_that_is_written_is_known_as_ours(tmp_path):
    from tests.report.comparisons import comparison_folder, run

    comparison_folder(tmp_path / "out", run("a ball"), run("Ein Bär, 猫"))
    assert len(everything(tmp_path / "out")) == 2 * len(COMPARED) + 3
    assert strangers(tmp_path / "out", recorded(tmp_path / "out")) == []
