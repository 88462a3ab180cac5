"""`bwcache serve` as a process: streams, readers that leave, an end that tells everybody; and its page in a browser."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.report.chromium import PROGRAM, Chromium
from tests.serve.served import Served, environment, served

HOSTILE = '<img src=x onerror="document.title=1"> قطة 🐈'
LONG = {"prompt": "a ball", "steps": 200, "policy": "NeverReuse"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), "--queue", "4") as found:
        yield found


@pytest.fixture
def asking(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=120) as found:
        yield found


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def first_steps(asking: httpx.Client, values: dict[str, Any], count: int) -> tuple[str, list[dict[str, Any]]]:
    """The name of a video, and its first steps; then the reader leaves."""
    steps: list[dict[str, Any]] = []
    with asking.stream("POST", "/videos", json=values, headers={"Accept": "text/event-stream"}) as answer:
        name, kind = "", ""
        for line in answer.iter_lines():
            field, _, text = line.partition(": ")
            kind = text if field == "event" else kind
            if field == "data" and kind == "video":
                name = json.loads(text)["id"]
            elif field == "data" and kind == "step":
                steps.append(json.loads(text))
                if len(steps) == count:
                    break
    return name, steps


def state(asking: httpx.Client, name: str) -> str:
    return str(asking.get(f"/videos/{name}").json()["state"])


def test_steps_come_while_the_video_is_made(asking: httpx.Client) -> None:
    name, steps = first_steps(asking, {"prompt": "a ball", "grade": "fast", "steps": 100}, 3)
    assert [step["step"] for step in steps] == [0, 1, 2]
    assert name


def test_who_leaves_the_stream_wants_the_video_no_more(asking: httpx.Client) -> None:
    name, _ = first_steps(asking, LONG, 2)
    until(lambda: state(asking, name) == "cancelled", 20)
    until(lambda: asking.get("/health").json()["running"] == 0, 20)


def test_who_leaves_while_waiting_too(asking: httpx.Client) -> None:
    first = asking.post("/videos", json=LONG).json()["id"]
    with asking.stream("POST", "/videos", json=LONG, headers={"Accept": "text/event-stream"}) as answer:
        lines = answer.iter_lines()
        name = json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))["id"]
    until(lambda: state(asking, name) == "cancelled", 20)
    assert state(asking, first) == "running"
    assert asking.delete(f"/videos/{first}").json()["state"] == "cancelled"


def test_who_only_watches_may_leave(asking: httpx.Client) -> None:
    name = asking.post("/videos", json={"prompt": "a ball", "steps": 60, "grade": "fast"}).json()["id"]
    with asking.stream("GET", f"/videos/{name}/events") as answer:
        next(answer.iter_lines())
    until(lambda: state(asking, name) == "done")
    assert asking.get(f"/videos/{name}/video.mp4").content[4:8] == b"ftyp"


def test_real_words_are_checked(asking: httpx.Client) -> None:
    answer = asking.post("/videos", json={"prompt": "a", "grade": "best"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("found grade 'best'; expected near or balanced or fast;")


def test_an_address_in_use_is_said_before_the_model_is_read(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "bwcache", "serve", "--port", port]
        ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert ended.returncode == 2
    said = f"bwcache: found 127.0.0.1:{port} in use; expected a port that is free; end what is there, or name another"
    assert ended.stderr == f"{said} by --port\n"


def test_its_end_tells_everybody(tmp_path: Path) -> None:
    with served(tmp_path) as server, httpx.Client(base_url=server.address, timeout=120) as asking:
        told: list[str] = []

        def listen() -> None:
            with httpx.Client(base_url=server.address, timeout=120) as mine:
                answer = mine.post("/videos", json=LONG, headers={"Accept": "text/event-stream"})
                told.append(answer.text.strip().splitlines()[-1])

        threads = [threading.Thread(target=listen) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: asking.get("/health").json() == {"status": "ok", "waiting": 1, "running": 1})
        assert server.end(signal.SIGTERM) in (143, -signal.SIGTERM)
        for thread in threads:
            thread.join(30)
    assert told == ['data: {"error": "the server ends; ask again"}'] * 2
    assert not [line for line in server.lines if "Traceback" in line]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.skip("no chromium or google-chrome here")
    found = Chromium(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture
def page(browser: Chromium, server: Served) -> Chromium:
    browser.complaints.clear()
    browser.fetched.clear()
    browser.open(f"{server.address}/")
    until(lambda: browser.run("document.querySelector('#grade').length") == 5)
    return browser


def text(page: Chromium, place: str) -> str:
    return str(page.run(f"document.querySelector('{place}').textContent"))


def ask(page: Chromium, prompt: str, grade: str, steps: int) -> None:
    values = {"prompt": prompt, "grade": grade, "steps": steps}
    for name, value in values.items():
        page.run(f"document.querySelector('#{name}').value = {json.dumps(value)}")
    page.run("document.querySelector('#make').click()")


def test_the_page_shows_each_step_and_then_the_video(page: Chromium, server: Served) -> None:
    ask(page, HOSTILE, "fast", 12)
    until(lambda: page.run("document.querySelectorAll('#strip .compute').length") >= 1)
    until(lambda: not page.run("document.querySelector('#video').hidden"))
    until(lambda: page.run("document.querySelector('#video').readyState") >= 2)
    cells = page.run("[...document.querySelectorAll('#strip span')].map((one) => one.className.split(' ')[0])")
    reused = cells.count("reuse")
    assert set(cells) == {"compute", "reuse"}
    assert text(page, "#now").startswith(f"12 of 12 steps, {reused} reused. Done in ")
    assert f"{reused} of 12" in text(page, "#figures")
    assert page.run("document.title") == "shapes – bwcache"
    page.run("document.querySelector('#strip').focus()")
    page.press("Home")
    assert text(page, "#why") == "step 0: computed, first step"
    page.press("ArrowRight")
    assert text(page, "#why").startswith("step 1: computed, planned; it rests on 0.")
    assert page.complaints == []
    assert {address.removeprefix(server.address).split("/")[1] for address in page.fetched} == {"", "about", "videos"}


def test_the_pages_button_stops_it(page: Chromium, asking: httpx.Client) -> None:
    ask(page, "a ball", "uncached", 200)
    until(lambda: page.run("document.querySelectorAll('#strip .compute').length") >= 2)
    page.run("document.querySelector('#stop').click()")
    until(lambda: text(page, "#now") == "Cancelled", 20)
    until(lambda: asking.get("/health").json()["running"] == 0, 20)
    assert not page.run("document.querySelector('#make').disabled")


def test_the_page_repeats_what_is_wrong(page: Chromium) -> None:
    page.run("document.querySelector('#steps').removeAttribute('max')")
    ask(page, "a ball", "fast", 201)
    until(lambda: text(page, "#now") == "found steps 201; expected at most 200 on this server; ask for fewer")
    assert page.run("document.querySelector('#now').className") == "wrong"


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_of_the_page_sticks_out(page: Chromium, width: int) -> None:
    page.tell("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    page.run("document.querySelector('#work').hidden = false")
    assert page.run("document.documentElement.scrollWidth") <= width
    page.tell("Emulation.clearDeviceMetricsOverride")
