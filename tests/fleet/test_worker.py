"""Workers on one folder: every row once, whoever fails, dies or comes back."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bwcache import SettingError
from bwcache.core.files import write_once
from bwcache.fleet import worker as module
from bwcache.fleet.folder import VideoFolder
from bwcache.fleet.worker import TRIES, FailedRowError, Made, Row, Worker

IDENTITY = {"model": {"pipeline": "Tiny"}, "packages": {"bwcache": "1"}}


def folder(path: Path, **settings: Any) -> VideoFolder:
    return VideoFolder(path / "out", IDENTITY, **settings)


def rows(where: VideoFolder, count: int) -> Callable[[], list[Row]]:
    return lambda: [Row(number, where.name(number)) for number in range(1, count + 1)]


def made(row: Row) -> Made:
    def write(part: Path) -> None:
        part.mkdir()
        (part / "video.mp4").write_bytes(b"video of %d" % row.number)

    return Made({"line": row.number}, write)


def finished(where: VideoFolder) -> list[int]:
    return sorted(json.loads(path.read_text())["line"] for path in where.path.glob("videos/*/*/video.json"))


def rest(where: VideoFolder) -> list[str]:
    return [str(path) for name in ("unfinished", "leases", "failed") for path in (where.path / name).iterdir()]


def test_one_worker_makes_all_and_the_next_finds_them(tmp_path: Path) -> None:
    where = folder(tmp_path)
    told: list[Any] = []
    Worker(where, rows(where, 5), made, lambda row, found, reason: told.append((row.number, found, reason))).run()
    assert finished(where) == [1, 2, 3, 4, 5]
    assert told == [(number, {"line": number}, None) for number in range(1, 6)]
    assert (where.place(where.name(2)) / "video.mp4").read_bytes() == b"video of 2"
    assert rest(where) == []
    told.clear()
    Worker(where, rows(where, 6), made, lambda row, found, reason: told.append((row.number, found))).run()
    assert told == [*((number, None) for number in range(1, 6)), (6, {"line": 6})]


def test_a_video_is_written_while_the_next_one_is_made(tmp_path: Path) -> None:
    """So that a GPU never waits for the encoding. One at a time: the frames of two videos are held, and no more."""
    where, begun, writing = folder(tmp_path), {number: threading.Event() for number in range(1, 6)}, []

    def make(row: Row) -> Made:
        begun[row.number].set()
        whole = made(row)

        def write(part: Path) -> None:
            writing.append(row.number)
            assert row.number == 4 or begun[row.number + 1].wait(60)
            assert not begun[min(row.number + 2, 5)].is_set()
            whole.write(part)

        return Made(whole.figures, write)

    told: list[int] = []
    Worker(where, rows(where, 4), make, lambda row, *_: told.append(row.number)).run()
    assert finished(where) == told == writing == [1, 2, 3, 4]
    assert rest(where) == []


def test_what_fails_in_the_making_leaves_the_video_before_whole(tmp_path: Path) -> None:
    where, begun = folder(tmp_path), threading.Event()

    def make(row: Row) -> Made:
        if row.number == 2:
            begun.set()
            raise KeyboardInterrupt
        whole = made(row)

        def write(part: Path) -> None:
            assert begun.wait(60)
            whole.write(part)

        return Made(whole.figures, write)

    with pytest.raises(KeyboardInterrupt):
        Worker(where, rows(where, 3), make).run()
    assert finished(where) == [1]
    assert rest(where) == []


def test_a_row_that_is_there_twice_is_made_once(tmp_path: Path) -> None:
    where, calls = folder(tmp_path), []
    twice = [Row(1, where.name("a")), Row(2, where.name("a"))]
    Worker(where, lambda: twice, lambda row: calls.append(row) or made(row)).run()
    assert [row.number for row in calls] == [1]


def test_several_workers_share_the_rows(tmp_path: Path) -> None:
    calls: list[int] = []
    meet = threading.Barrier(4)  # that many are at work at once

    def make(row: Row) -> Made:
        calls.append(row.number)
        if row.number <= 4:
            meet.wait(60)
        return made(row)

    workers = [Worker(where := folder(tmp_path), rows(where, 12), make) for _ in range(4)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == [*range(1, 13)]
    assert finished(where) == [*range(1, 13)]
    assert rest(where) == []


def test_more_held_rows_than_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 2)
    where = folder(tmp_path, seconds=0.05)
    for number in range(1, 8):
        (where.path / "leases" / f"{where.name(number)}.0").write_text("")
    told: list[int] = []
    Worker(where, rows(where, 9), made, lambda row, *_: told.append(row.number)).run()
    assert sorted(told) == [*range(1, 10)]
    assert finished(where) == [*range(1, 10)]


def test_who_waits_says_for_whom_and_once(tmp_path: Path) -> None:
    where, said = folder(tmp_path, seconds=1), []
    file = where.path / "leases" / f"{where.name(1)}.0"
    file.write_text(json.dumps({"host": "far", "process": 7, "machine": "another boot", "started": "1"}))
    Worker(where, rows(where, 2), made, on_wait=said.append).run()
    assert said == ["waiting for line 1, which is held by process 7 on far"]
    assert finished(where) == [1, 2]


def test_who_comes_second_finds_it_there(tmp_path: Path) -> None:
    """A worker that was taken for dead finishes after the one that took its row over."""
    where = folder(tmp_path, seconds=0.05)
    first: dict[str, Any] = {}

    def slow(row: Row) -> Made:
        os.utime(where.path / "leases" / f"{row.name}.0", (1, 1))
        Worker(other := folder(tmp_path, seconds=0.01), rows(other, 1), made).run()
        first.update((path.name, path.stat().st_mtime_ns) for path in where.place(row.name).iterdir())
        return made(row)

    never = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwcache.fleet.leases.Lease._renew", lambda self: never.wait(0))
        Worker(where, rows(where, 1), slow).run()
    assert {path.name: path.stat().st_mtime_ns for path in where.place(where.name(1)).iterdir()} == first
    assert rest(where) == []


def test_what_was_tidied_away_meanwhile_is_written_again(tmp_path: Path) -> None:
    where, times = folder(tmp_path), []

    def make(row: Row) -> Made:
        whole = made(row)

        def write(part: Path) -> None:
            whole.write(part)
            times.append(part)
            if len(times) == 1:
                for file in part.iterdir():
                    file.unlink()
                part.rmdir()

        return Made(whole.figures, write)

    Worker(where, rows(where, 1), make).run()
    assert (len(times), finished(where)) == (2, [1])


def test_a_row_that_fails_is_told_once_and_tried_again_by_those_who_start_later(tmp_path: Path) -> None:
    where, calls, told = folder(tmp_path), [], []

    def fails(row: Row) -> Made:
        calls.append(row.number)
        if row.number == 2:
            raise FailedRowError("too large")
        return made(row)

    twice = lambda: [*rows(where, 3)(), Row(4, where.name(2))]  # noqa: E731
    Worker(where, twice, fails, lambda row, _, reason: told.append((row.number, reason))).run()
    assert calls == [1, 2, 3]
    assert told == [(1, None), (2, "too large"), (3, None), (4, "too large")]
    assert where.failed(where.name(2)) == "too large"
    os.utime(where.path / "failed" / f"{where.name(2)}.json", (1, 1))
    Worker(where, rows(where, 3), made).run()
    assert finished(where) == [1, 2, 3]
    assert rest(where) == []


def test_a_row_over_which_workers_die_is_given_up(tmp_path: Path) -> None:
    where, told = folder(tmp_path, seconds=0.0), []
    (where.path / "leases" / f"{where.name(1)}.{TRIES - 1}").write_text("")
    Worker(where, rows(where, 2), made, lambda row, _, reason: told.append((row.number, reason))).run()
    assert told == [(1, f"{TRIES} workers died over this row"), (2, None)]
    assert list((where.path / "leases").iterdir()) == []


def test_a_full_disk_ends_the_worker_and_leaves_nothing_half(tmp_path: Path) -> None:
    where = folder(tmp_path)

    def full(row: Row) -> Made:
        def write(part: Path) -> None:
            part.mkdir()
            (part / "video.mp4").write_bytes(b"half")
            raise OSError(28, "No space left on device")

        return Made({}, write) if row.number == 2 else made(row)

    with pytest.raises(OSError, match="No space left"):
        Worker(where, rows(where, 3), full).run()
    assert finished(where) == [1]
    assert rest(where) == []
    Worker(where, rows(where, 3), made).run()
    assert finished(where) == [1, 2, 3]


def test_a_folder_of_another_model_or_version_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder(tmp_path)
    other = {**IDENTITY, "packages": {"bwcache": "2"}}
    with pytest.raises(
        SettingError, match=r"results of another bwcache in '.*out' \(1\); expected the same as now \(2\)"
    ):
        VideoFolder(tmp_path / "out", other)
    assert VideoFolder(tmp_path / "other", other).name(1) != folder(tmp_path).name(1)


def test_two_who_begin_a_folder_of_different_models_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see an empty folder; the one who writes second is refused."""

    def slowly(path: Path, text: str) -> bool:
        monkeypatch.undo()
        VideoFolder(path.parent, {**IDENTITY, "packages": {"bwcache": "2"}})
        return write_once(path, text)

    monkeypatch.setattr("bwcache.fleet.folder.write_once", slowly)
    with pytest.raises(SettingError, match="results of another bwcache"):
        folder(tmp_path)


def test_other_things_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(SettingError, match="other things than videos of a prompt file"):
        folder(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_video_that_a_person_took_to_pieces_is_made_again(tmp_path: Path) -> None:
    where = folder(tmp_path)
    Worker(where, rows(where, 1), made).run()
    (where.place(where.name(1)) / "video.json").unlink()
    Worker(where, rows(where, 1), made).run()
    assert finished(where) == [1]


def test_tidying_takes_what_the_dead_left_and_nothing_of_the_living(tmp_path: Path) -> None:
    where = folder(tmp_path, seconds=100)
    Worker(where, rows(where, 1), made).run()
    old, new = (where.path / "unfinished" / name for name in ("old", "new"))
    for part in (old, new):
        part.mkdir()
        (part / "video.mp4").write_bytes(b"half")
    parts = [where.path / "failed" / f".bwcache-part-{name}" for name in ("old", "new")]
    for part in parts:
        part.write_text("half")
    for path in (old / "video.mp4", old, parts[0]):
        os.utime(path, (1, 1))
    (where.path / "leases" / f"{where.name(1)}.0").write_text("")
    (where.path / "leases" / f"{where.name(2)}.0").write_text("")
    where.tidy()
    assert [path.name for path in (where.path / "unfinished").iterdir()] == ["new"]
    assert [path.name for path in (where.path / "failed").iterdir()] == [".bwcache-part-new"]
    assert [path.name for path in (where.path / "leases").iterdir()] == [f"{where.name(2)}.0"]
