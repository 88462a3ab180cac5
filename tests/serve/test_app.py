"""What each address answers, in this process, with a maker that makes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from bwcache import SettingError
from bwcache.serve.app import LARGEST, make_app
from bwcache.serve.desk import Desk
from bwcache.serve.figures import Figures
from bwcache.serve.order import Order
from bwcache.serve.shelf import Shelf
from tests.serve.makers import Puppet, order

PROMPT = {"prompt": "a ball"}


def read(values: Mapping[str, Any]) -> Order:
    if "prompt" not in values:
        raise SettingError("found no prompt; expected a text; describe the video")
    return order(**values)


@contextlib.asynccontextmanager
async def client(maker: Puppet, folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    shelf, figures = Shelf(folder), Figures()
    desk = Desk(maker, shelf, figures, **settings)
    app = make_app(desk, maker, shelf, figures, read, {"model": "puppet"})
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as asking:
            yield asking


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


async def state(asking: httpx.AsyncClient, name: str, wanted: str) -> dict[str, Any]:
    while True:
        found = (await asking.get(f"/videos/{name}")).json()
        if found["state"] == wanted:
            return dict(found)
        await asyncio.sleep(0.01)


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [block.splitlines() for block in text.split("\n\n") if block and not block.startswith(":")]
    fields = [dict(line.split(": ", 1) for line in block) for block in blocks]
    return [(one["event"], json.loads(one["data"])) for one in fields]


def test_a_video_by_its_address(tmp_path: Path) -> None:
    async def scene() -> None:
        async with client(Puppet(), tmp_path) as asking:
            answer = await asking.post("/videos", json=PROMPT)
            assert answer.status_code == 202
            found = answer.json()
            assert (found["state"], found["before"]) == ("waiting", 0)
            assert answer.headers["location"] == found["links"]["self"] == f"/videos/{found['id']}"
            done = await state(asking, found["id"], "done")
            assert done["figures"]["prompt"] == "a ball"
            video = await asking.get(done["links"]["video"])
            assert (video.content, video.headers["content-type"]) == (b"a ball", "video/mp4")
            part = await asking.get(done["links"]["video"], headers={"Range": "bytes=2-3"})
            assert (part.status_code, part.content) == (206, b"ba")
            assert (await asking.get(done["links"]["trace"])).content == b"{}"

    play(scene)


def test_all_that_happens_as_a_stream_and_from_the_middle_on(tmp_path: Path) -> None:
    async def scene() -> None:
        async with client(Puppet(), tmp_path) as asking:
            answer = await asking.post("/videos", json=PROMPT, headers={"Accept": "text/event-stream"})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            told = events(answer.text)
            assert [kind for kind, _ in told] == ["video", "waiting", "started", "step", "done"]
            links = told[0][1]["links"]
            again = await asking.get(links["events"], headers={"Last-Event-ID": "1"})
            assert [kind for kind, _ in events(again.text)] == ["video", "step", "done"]
            odd = await asking.get(links["events"], headers={"Last-Event-ID": "--1"})
            assert len(events(odd.text)) == 5

    play(scene)


def test_cancelling_and_removing(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(waits=True)
        async with client(maker, tmp_path) as asking:
            names = [(await asking.post("/videos", json=PROMPT)).json()["id"] for _ in range(2)]
            await state(asking, names[0], "running")
            for name in names[::-1]:
                assert (await asking.delete(f"/videos/{name}")).json()["state"] == "cancelled"
            maker.go.set()
            name = (await asking.post("/videos", json=PROMPT)).json()["id"]
            await state(asking, name, "done")
            assert (await asking.delete(f"/videos/{name}")).status_code == 200
            assert (await asking.get(f"/videos/{name}")).status_code == 404
            assert not (tmp_path / name).exists()
            assert maker.calls == [["a ball"]] * 2

    play(scene)


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b'{"prompt": "a"', "application/json", 400, "found a body that is no JSON ("),
        (b'{"prompt": "\xff"}', "application/json", 400, "found a body that is no JSON ("),
        (b'{"seed": NaN, "prompt": "a"}', "application/json", 400, "found a body that is no JSON (the number NaN"),
        (b"[" * 5000, "application/json", 400, "found a body that is no JSON ("),
        (b'["a"]', "application/json", 400, "found ['a']; expected an object; send such as"),
        (b"{}", "application/json", 422, "found no prompt; expected a text; describe the video"),
        (b"prompt=a", "application/x-www-form-urlencoded", 415, "found content type 'application/x-www-form-"),
        (b" " * (LARGEST + 1), "application/json", 413, f"found a body of more than {LARGEST} bytes"),
    ],
)
def test_what_cannot_be_read_is_answered_in_one_line(
    tmp_path: Path, content: bytes, kind: str, status: int, said: str
) -> None:
    async def scene() -> None:
        async with client(maker := Puppet(), tmp_path) as asking:
            answer = await asking.post("/videos", content=content, headers={"Content-Type": kind})
            assert answer.status_code == status
            assert answer.json()["error"].startswith(said)
            assert maker.calls == []

    play(scene)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(waits=True)
        async with client(maker, tmp_path) as asking:
            name = (await asking.post("/videos", json=PROMPT)).json()["id"]
            said = {
                "/videos/nobody": "found no video 'nobody'; expected one of the last 100; ask for it anew",
                f"/videos/{name}/video.mp4": "; expected one that is done; watch ",
                f"/videos/{name}/video.json": "found no 'video.json'; expected video.mp4 or trace.jsonl",
                "/nowhere": "found no address '/nowhere'; expected /, /videos, /health or /metrics; see /",
            }
            for address, text in said.items():
                answer = await asking.get(address)
                assert answer.status_code == 404
                assert text in answer.json()["error"]
            assert (await asking.get(f"/videos/{name}/..%2f..%2fetc%2fpasswd")).status_code == 404
            wrong = await asking.put("/videos", json=PROMPT)
            assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
            assert wrong.json()["error"] == "found PUT of '/videos'; expected another method; see the Allow header"

    play(scene)


def test_a_full_queue_says_when_to_ask_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with client(Puppet(waits=True), tmp_path, room=1) as asking:
            first = (await asking.post("/videos", json=PROMPT)).json()["id"]
            await state(asking, first, "running")
            assert (await asking.post("/videos", json=PROMPT)).status_code == 202
            answer = await asking.post("/videos", json=PROMPT, headers={"Accept": "text/event-stream"})
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"].startswith("found 1 videos waiting; expected fewer than 1; ask again in ")

    play(scene)


def test_health_and_figures(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet()
        async with client(maker, tmp_path) as asking:
            health = await asking.get("/health")
            assert (health.status_code, health.json()) == (200, {"status": "ok", "waiting": 0, "running": 0})
            name = (await asking.post("/videos", json=PROMPT)).json()["id"]
            await state(asking, name, "done")
            text = (await asking.get("/metrics")).text
            for line in (
                'bwcache_videos_total{outcome="done"} 1.0',
                'bwcache_steps_total{action="compute"} 1.0',
                "bwcache_reuse_rate_sum 0.5",
                "bwcache_estimated_speedup_sum 2.0",
                "bwcache_decode_seconds_sum 0.25",
                "bwcache_queue_length 0.0",
                "bwcache_running 0.0",
                "bwcache_kept_bytes 10.0",
            ):
                assert line in text.splitlines()
            assert "process_resident_memory_bytes" in text
            maker.broken = "device cuda does not answer any more"
            health = await asking.get("/health")
            assert (health.status_code, health.json()["error"]) == (503, maker.broken)

    play(scene)


def test_the_page_names_no_other_host(tmp_path: Path) -> None:
    async def scene() -> None:
        async with client(Puppet(), tmp_path) as asking:
            answer = await asking.get("/")
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "//" not in answer.text.replace("<!-- ", "")
            assert (await asking.get("/about")).json() == {"model": "puppet", "waiting": 0, "running": 0}

    play(scene)
