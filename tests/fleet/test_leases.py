"""Leases: one holder at a time as far as anyone can tell, and none for ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bwcache.fleet import leases as module
from bwcache.fleet.leases import Lease, Leases, is_gone, this_process
from tests.fleet.forked import FORK, start


def elsewhere(folder: Path, name: str = "row", number: int = 0, age: float = 0.0) -> Path:
    """A lease of a process on another machine, last renewed so many seconds ago."""
    file = folder / f"{name}.{number}"
    file.write_text(json.dumps({"host": "far", "process": 1, "machine": "another boot", "started": "1"}))
    then = file.stat().st_mtime - age
    os.utime(file, (then, then))
    return file


def test_a_row_is_taken_once_and_free_again_afterwards(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    lease = leases.take("row")
    assert isinstance(lease, Lease)
    with lease:
        assert leases.take("row") is None
        assert leases.take("rows") is not None
        assert leases.holder("row") == f"process {os.getpid()} on {socket.gethostname()}"
    assert leases.holder("row") is None
    assert leases.take("row").number == 0


def test_of_many_who_try_at_once_one_has_it(tmp_path: Path) -> None:
    elsewhere(tmp_path, age=1000)
    got: list[Lease | None] = []
    barrier = threading.Barrier(16)

    def attempt() -> None:
        leases = Leases(tmp_path, seconds=100)
        barrier.wait()
        got.append(leases.take("row"))

    threads = [threading.Thread(target=attempt) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.number for lease in got if lease is not None] == [1]


def test_another_machines_row_is_taken_over_when_its_lease_is_over(tmp_path: Path) -> None:
    leases = Leases(tmp_path, seconds=100)
    elsewhere(tmp_path, age=90)
    assert leases.take("row") is None
    elsewhere(tmp_path, age=110)
    with leases.take("row") as lease:
        assert lease.number == 1
    assert list(tmp_path.iterdir()) == []


def test_ages_are_the_file_systems_whatever_this_machines_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases(tmp_path, seconds=100)
    for skew in (-1e6, 1e6):
        monkeypatch.setattr(time, "time", lambda skew=skew: skew)
        elsewhere(tmp_path, age=50)
        assert leases.take("row") is None
        elsewhere(tmp_path, age=150)
        with leases.take("row"):
            pass


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    leases = Leases(tmp_path, seconds=0.5)
    with leases.take("row"):
        file = tmp_path / "row.0"
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 60
        while file.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert file.stat().st_mtime > 1


def test_who_was_taken_for_dead_and_comes_back_takes_nothing_away(tmp_path: Path) -> None:
    slow, quick = Leases(tmp_path, seconds=3600), Leases(tmp_path, seconds=-1)
    late = slow.take("row")
    with late, quick.take("row") as second:
        assert second.number == 1
        late.__exit__()
        assert slow.take("row") is None
    assert list(tmp_path.iterdir()) == []


def test_who_is_taken_over_between_two_looks_does_not_remove_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who takes over comes after the holder saw that it is the last, and before it removes its file."""
    leases = Leases(tmp_path)
    lease = leases.take("row")
    seen, numbers = [], Leases._numbers

    def then_another(self: Leases, name: str) -> list[int]:
        found = numbers(self, name)
        if not seen:
            seen.append(elsewhere(tmp_path, number=1))
        return found

    monkeypatch.setattr(Leases, "_numbers", then_another)
    with lease:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["row.1"]


def test_a_lease_that_vanished_is_no_error(tmp_path: Path) -> None:
    with Leases(tmp_path, seconds=0.2).take("row"):
        (tmp_path / "row.0").unlink()
        time.sleep(0.3)


def test_a_file_that_is_not_yet_written_is_held(tmp_path: Path) -> None:
    for content in ("", '{"host"', "[]", "null", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")):
        (tmp_path / "row.0").write_text(content)
        assert Leases(tmp_path).take("row") is None
        assert Leases(tmp_path).holder("row") == "somebody"


def _hold(folder: Path, told: Any) -> None:
    Leases(folder).take("row").__enter__()
    told.set()
    time.sleep(600)


def test_a_killed_process_of_this_machine_is_seen_at_once(tmp_path: Path) -> None:
    process = start(_hold, tmp_path, told := FORK.Event())
    assert told.wait(120)
    leases = Leases(tmp_path, seconds=1e6)
    assert leases.take("row") is None
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (lease := leases.take("row")) is None and time.monotonic() < deadline:  # dead, though nobody has buried it
        time.sleep(0.01)
    assert lease.number == 1
    process.join()


def test_another_process_with_the_same_number_is_another_one() -> None:
    own = this_process()
    assert not is_gone(own)
    assert is_gone(own | {"started": "1"})
    assert not is_gone(own | {"started": "1", "machine": "another boot"})
    assert not is_gone(None)


def test_a_system_that_does_not_say_goes_by_the_lease_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = this_process()
    monkeypatch.setattr(module, "_machine", lambda: None)
    assert not is_gone(own | {"started": "1"})
    assert not is_gone(this_process() | {"started": "1"})


def test_the_module_needs_no_torch() -> None:
    code = "import ast, pathlib, bwcache.fleet.leases as m; t = ast.parse(pathlib.Path(m.__file__).read_text());"
    code += "print({n.module for n in ast.walk(t) if isinstance(n, ast.ImportFrom)} & {'torch', 'diffusers'})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout == "set()\n"
