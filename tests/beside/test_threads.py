"""Two threads, each with a pipeline of its own: step by step in turns.

Pipelines of two classes in two threads, and pipelines that share a transformer: `engine/test_clock.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

import bwcache
from tests.beside.attached import CAREFREE, LINE, cached, lines, plain, same
from tests.tiny import WAN, wan


def in_turns(pipes: list[Any], runs: int) -> list[list[Tensor]]:
    """The videos of each pipeline, in a thread of its own; no thread is ever more than a step ahead."""
    made: list[list[Tensor]] = [[] for _ in pipes]
    meet = threading.Barrier(len(pipes), timeout=60)

    def wait(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        meet.wait()
        return kwargs

    def work(i: int) -> Callable[[], None]:
        return lambda: made[i].extend(WAN.run(pipes[i], callback_on_step_end=wait) for _ in range(runs))

    threads = [threading.Thread(target=work(i), daemon=True) for i in range(len(pipes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return made


def test_two_attached_pipelines_of_one_class() -> None:
    pipes = [wan(), wan()]
    with bwcache.attach(pipes[0], CAREFREE) as one, bwcache.attach(pipes[1], CAREFREE) as other:
        made = in_turns(pipes, runs=2)
    for videos, session in zip(made, (one, other), strict=True):
        assert len(videos) == 2
        for video in videos:
            same(video, cached())
        assert lines(session) == [LINE, LINE]


def test_one_attached_and_one_not() -> None:
    pipes = [wan(), wan()]
    with bwcache.attach(pipes[0], CAREFREE) as session:
        attached, other = in_turns(pipes, runs=2)
    assert len(attached) == len(other) == 2
    for video in attached:
        same(video, cached())
    for video in other:
        same(video, plain())
    assert lines(session) == [LINE, LINE]


@pytest.mark.parametrize("times", [8])
def test_attaching_and_closing_beside_a_run_of_another_pipeline(times: int) -> None:
    """Importing, attaching and closing touch nothing that all pipelines share."""
    busy, other = wan(), wan()
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            with bwcache.attach(other, CAREFREE):
                pass

    thread = threading.Thread(target=come_and_go, daemon=True)
    thread.start()
    try:
        with bwcache.attach(busy, CAREFREE) as session:
            videos = [WAN.run(busy) for _ in range(times)]
    finally:
        stop.set()
        thread.join(timeout=60)
    for video in videos:
        same(video, cached())
    assert lines(session) == [LINE] * times
    same(WAN.run(other), plain())
