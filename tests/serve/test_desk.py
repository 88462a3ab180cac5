"""The queue: bounded, in order, in batches; nobody who asked is left without an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from bwcache.policies import BWCache, SeaCache
from bwcache.serve.desk import Desk, FullError
from bwcache.serve.figures import Figures
from bwcache.serve.job import Job
from bwcache.serve.shelf import Shelf
from tests.serve.makers import Puppet, order


@contextlib.asynccontextmanager
async def at_work(maker: Puppet, folder: Path, keep: int = 100, **settings: Any) -> AsyncIterator[Desk]:
    desk = Desk(maker, Shelf(folder, keep), Figures(), **settings)
    desk.start()
    try:
        yield desk
    finally:
        await desk.close()


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


async def over(*jobs: Job) -> None:
    for job in jobs:
        await job.end()


def kinds(job: Job) -> list[str]:
    return [event.kind for event in job.events]


def test_an_order_is_made_and_its_files_are_there(tmp_path: Path) -> None:
    async def scene() -> None:
        async with at_work(Puppet(), tmp_path) as desk:
            job = desk.take(order())
            await over(job)
            assert kinds(job) == ["waiting", "started", "step", "done"]
            assert [event.number for event in job.events] == [0, 1, 2, 3]
            assert (tmp_path / job.name / "video.mp4").read_bytes() == b"a ball"
            assert desk.find(job.name) is job

    play(scene)


def test_more_than_there_is_room_for_is_refused_with_a_time(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(waits=True)
        async with at_work(maker, tmp_path, room=2) as desk:
            jobs = [desk.take(order("0"))]
            await until(lambda: desk.running == 1)
            jobs += [desk.take(order(str(number))) for number in (1, 2)]
            assert [desk.before(job) for job in jobs] == [None, 0, 1]
            with pytest.raises(FullError, match="found 2 videos waiting; expected fewer than 2; ask again in") as full:
                desk.take(order("3"))
            assert full.value.seconds >= 1
            maker.go.set()
            await over(*jobs)
            assert maker.calls == [["0"], ["1"], ["2"]]
            assert desk.take(order("3")).state == "waiting"

    play(scene)


def test_a_batch_is_of_those_that_fit_and_the_others_keep_their_turn(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(waits=True)
        async with at_work(maker, tmp_path, together=3) as desk:
            first = desk.take(order("0"))
            await until(lambda: desk.running == 1)
            looking = {"policy": SeaCache(threshold=0.1)}
            later = [
                desk.take(order("a", seed=1)),
                desk.take(order("longer", steps=3)),
                desk.take(order("b", arguments={"negative_prompt": "blurry"})),
                desk.take(order("other policy", policy=BWCache())),
                desk.take(order("c", seed=2)),
                desk.take(order("d")),
                desk.take(order("looks", **looking)),
                desk.take(order("looks too", **looking)),
                desk.take(order("e")),
            ]
            maker.go.set()
            await over(first, *later)
            alone = [["longer"], ["b"], ["other policy"], ["looks"], ["looks too"], ["e"]]
            assert maker.calls == [["0"], ["a", "c", "d"], *alone]
            assert later[0].events[1].data == {"steps": 2, "together": 3}

    play(scene)


def test_one_of_a_batch_is_cancelled_and_the_other_is_made(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(waits=True)
        async with at_work(maker, tmp_path, together=2) as desk:
            first = desk.take(order("0"))
            await until(lambda: desk.running == 1)
            pair = [desk.take(order(name)) for name in "ab"]
            waits = desk.take(order("c", steps=5))
            desk.cancel(waits)
            assert waits.state == "cancelled"
            desk.cancel(first)
            await until(lambda: desk.running == 2)
            assert maker.closed == [["0"]]
            desk.cancel(pair[0])
            desk.cancel(pair[0])
            maker.go.set()
            await over(*pair)
            assert [job.state for job in pair] == ["cancelled", "done"]
            assert maker.calls == [["0"], ["a", "b"]]
            assert maker.closed == [["0"]]
            assert not (tmp_path / pair[0].name).exists()

    play(scene)


def test_who_loses_its_maker_is_made_by_another_one_first_of_all(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(dies=1, waits=True)
        async with at_work(maker, tmp_path, together=2) as desk:
            jobs = [desk.take(order(name)) for name in "abc"]
            await until(lambda: desk.running == 2)
            desk.cancel(jobs[1])
            maker.go.set()
            await over(*jobs)
            assert maker.calls == [["a", "b"], ["a", "c"]]
            assert [job.state for job in jobs] == ["done", "cancelled", "done"]
            assert kinds(jobs[0]) == ["waiting", "started", "step", "again", "started", "step", "done"]

    play(scene)


def test_a_video_over_which_makers_die_fails(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(dies=9)
        async with at_work(maker, tmp_path) as desk:
            job = desk.take(order())
            await over(job)
            assert (job.state, job.events[-1].data) == ("failed", {"error": "a replica died"})
            assert len(maker.calls) == 3

    play(scene)


def test_a_video_that_fails_or_is_forgotten_has_an_answer_and_the_next_is_made(tmp_path: Path) -> None:
    async def scene() -> None:
        async with at_work(Puppet(), tmp_path) as desk:
            jobs = [desk.take(order(name)) for name in ("bad", "forgotten", "good")]
            await over(*jobs)
            assert [job.events[-1].data.get("error") for job in jobs] == ["found bad", "it was not finished", None]

    play(scene)


def test_a_desk_that_closes_tells_everybody_and_stops_the_maker(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(waits=True)
        async with at_work(maker, tmp_path) as desk:
            jobs = [desk.take(order(str(number))) for number in range(3)]
            await until(lambda: desk.running == 1)
            await desk.close()
            assert [job.state for job in jobs] == ["failed"] * 3
            assert jobs[2].events[-1].data == {"error": "the server ends; ask again"}
            assert maker.closed == [["0"]]
            with pytest.raises(FullError, match="a server that ends"):
                desk.take(order())

    play(scene)


def test_only_the_last_videos_stay(tmp_path: Path) -> None:
    async def scene() -> None:
        async with at_work(Puppet(), tmp_path, keep=2) as desk:
            jobs = [desk.take(order(str(number))) for number in range(5)]
            await over(*jobs)
            await until(lambda: len(list(tmp_path.iterdir())) == 2)
            assert {path.name for path in tmp_path.iterdir()} == {job.name for job in jobs[3:]}
            assert [desk.find(job.name) is None for job in jobs] == [True, True, True, False, False]

    play(scene)


def test_who_comes_late_sees_all_and_who_comes_back_sees_the_rest(tmp_path: Path) -> None:
    async def scene() -> None:
        maker = Puppet(waits=True)
        async with at_work(maker, tmp_path) as desk:
            job = desk.take(order())
            await until(lambda: len(job.events) == 3)
            early = asyncio.create_task(seen(job, -1))
            await asyncio.sleep(0.01)
            maker.go.set()
            assert await early == ["waiting", "started", "step", "done"]
            assert await seen(job, -1) == await early
            assert await seen(job, 1) == ["step", "done"]
            assert await seen(job, 99) == []

    async def seen(job: Job, after: int) -> list[str]:
        return [event.kind async for event in job.watch(after)]

    play(scene)
