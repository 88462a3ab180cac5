"""`bwcache serve --ray`: replicas of Ray Serve make the videos; one is killed, and its video is made all the same."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ray import PATIENCE
from tests.serve.served import Served, served

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(3 * PATIENCE)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), "--ray", "--batch", "2", "--max-steps", "5000") as found:
        yield found


@pytest.fixture
def asking(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=PATIENCE) as found:
        yield found


def replicas(server: Served) -> list[int]:
    """The processes that hold a pipeline for this server."""
    name = f"ray::ServeReplica:bwcache-{server.process.pid}:"
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if name in _read(path)]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def until(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def events(asking: httpx.Client, values: dict[str, Any]) -> list[str]:
    answer = asking.post("/videos", json=values, headers={"Accept": "text/event-stream"})
    return [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]


def test_a_video_is_made_by_a_replica(asking: httpx.Client, server: Served) -> None:
    assert len(replicas(server)) == 1
    told = events(asking, {"prompt": "a ball", "steps": 6, "grade": "fast"})
    assert told == ["video", "waiting", "started", *["step"] * 6, "decoding", "done"]
    assert asking.get("/health").json()["status"] == "ok"


def test_a_replica_is_killed_and_the_video_is_made_by_the_next(asking: httpx.Client, server: Served) -> None:
    told: list[str] = []

    def listen() -> None:
        with httpx.Client(base_url=server.address, timeout=PATIENCE) as mine:
            told.extend(events(mine, {"prompt": "a ball", "steps": 60, "policy": "NeverReuse"}))

    before = replicas(server)
    thread = threading.Thread(target=listen)
    thread.start()
    until(lambda: asking.get("/health").json()["running"] == 1)
    time.sleep(1)
    os.kill(before[0], signal.SIGKILL)
    seen, deadline = set(), time.monotonic() + PATIENCE
    while thread.is_alive() and time.monotonic() < deadline:
        seen.add(asking.get("/health").status_code)
        time.sleep(0.05)
    assert seen == {200}  # one that is being replaced is no reason to end the server, which has the queue
    assert told[-1] == "done"
    assert told.count("again") >= 1
    assert replicas(server) != before


def test_who_leaves_stops_the_replica(asking: httpx.Client) -> None:
    headers = {"Accept": "text/event-stream"}
    values = {"prompt": "a ball", "steps": 5000, "policy": "NeverReuse"}
    with asking.stream("POST", "/videos", json=values, headers=headers) as answer:
        lines = answer.iter_lines()
        name = json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))["id"]
        steps = (line for line in lines if line == "event: step")
        next(steps)
        begun = time.monotonic()
        for _ in range(10):
            next(steps)
        ten = time.monotonic() - begun
    until(lambda: asking.get(f"/videos/{name}").json()["state"] == "cancelled")
    begun = time.monotonic()
    assert events(asking, {"prompt": "a ball", "steps": 4, "grade": "fast"})[-1] == "done"
    assert time.monotonic() - begun < 200 * ten + 60  # the other 4990 steps would take longer
