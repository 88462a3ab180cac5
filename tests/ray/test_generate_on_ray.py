"""`bwcache generate --ray`: a worker is killed, then the command; the next start loses and repeats nothing."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bwcache.fleet import cluster
from bwcache.fleet.cluster import connected, run_workers
from tests.ray import PATIENCE
from tests.serve.served import environment

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(3 * PATIENCE)]

ROWS = 8


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bwcache", "generate", "--prompts", "rows.jsonl", "--out", "out", *options]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True, **piped)  # type: ignore[call-overload,no-any-return]


def cells(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("out/videos/*/*/video.json")}


def holders(folder: Path) -> set[int]:
    """The processes that hold rows."""
    found = set()
    for path in folder.glob("out/leases/*.[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            found.add(int(json.loads(path.read_text())["process"]))
    return found


def until(true: Callable[[], Any], process: subprocess.Popen[str], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.02)


def lives(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_two_workers_one_killed_then_the_command_killed_and_started_again(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a red circle", "seed": seed, "steps": 12, "frames": 5, "policy": "NeverReuse"}
        for seed in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first = begin(tmp_path, "--ray", "--workers", "2")
    until(lambda: holders(tmp_path), first)
    os.kill(holders(tmp_path).pop(), signal.SIGKILL)
    until(lambda: len(cells(tmp_path)) >= 2, first)
    others = holders(tmp_path)
    first.kill()
    first.wait()
    deadline = time.monotonic() + PATIENCE
    while any(lives(process) for process in others):  # the cluster ends with the command
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = cells(tmp_path)
    assert len(before) < ROWS
    said, _ = (again := begin(tmp_path, "--ray", "--workers", "2")).communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert f"{ROWS} of {ROWS} videos are in " in said
    after = cells(tmp_path)
    assert len(after) == ROWS
    assert {name: after[name] for name in before} == before
    assert [path.name for path in tmp_path.glob("out/leases/*")] == []
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["made"] * ROWS


def test_what_a_worker_raises_ends_the_command_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a red circle", "steps": 2, "frames": 5}))
    (tmp_path / "out").mkdir()
    record = {"format": "bwcache-videos-1", "model": {"pipeline": "Other"}, "packages": {}, "dtype": "x", "weights": ""}
    (tmp_path / "out" / "videos.json").write_text(json.dumps(record))
    said, _ = (ended := begin(tmp_path, "--ray")).communicate(timeout=PATIENCE)
    assert ended.returncode == 2
    assert said.splitlines()[-1].startswith("bwcache: found results of another ")


def test_a_worker_that_always_dies_ends_the_command(tmp_path: Path) -> None:
    def dies(tell: Any) -> None:
        os._exit(1)

    said: list[str] = []
    with (
        connected("local") as joined,
        pytest.raises(Exception, match="found 3 workers on end that died before a row was settled"),
    ):
        run_workers(joined, dies, 1, 0, said.append, said.append)
    assert len(said) == 2


def test_a_worker_without_a_place_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WAITS", 0.5)
    said: list[str] = []
    told: list[str] = []

    def works(tell: Any) -> None:
        time.sleep(3)
        tell("a row")

    with connected("local") as joined:
        room = int(joined.cluster_resources()["CPU"])
        run_workers(joined, works, room + 1, 0, told.append, said.append)
    assert told == ["a row"] * (room + 1)
    waits = f"a worker still waits to begin: it takes 1 CPU, of which the cluster has {room} by now, and "
    assert said
    assert all(line.startswith(waits) for line in said)


def test_an_address_without_a_cluster_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a red circle", "steps": 2, "frames": 5}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said, _ = (ended := begin(tmp_path, "--ray", address)).communicate(timeout=PATIENCE)
    assert ended.returncode == 2
    assert f"bwcache: found no Ray cluster at --ray '{address}' (Connection refused); expected one that runs; " in said
    assert not (tmp_path / "out").exists()
