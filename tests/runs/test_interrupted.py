"""Runs that end early: told to stop, or by an exception; in the first loop of a call or in a later one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from bwcache.models import denoisers
from tests.runs.cases import BY_NAME, LUMINA2, Z_IMAGE
from tests.runs.laws import CAREFREE, run, same
from tests.tiny import Case, noise, wan_transformer

LOOPS = ("WanAnimatePipeline segments", "HunyuanVideoFramepackPipeline sections", "HeliosPipeline chunks")


class Halt(Exception):
    """What a user's code raises in the middle."""


def after(forwards: int, do: Callable[[], None]) -> Any:
    """A callback at the end of each step that does this once, at the given one, counted over all loops of a call."""
    seen = [0]

    def callback(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen[0] += 1
        if seen[0] == forwards:
            do()
        return kwargs

    return callback


def stop(pipe: Any) -> Callable[[], None]:
    def stopping() -> None:
        pipe._interrupt = True

    return stopping


def halt() -> None:
    raise Halt


@pytest.mark.parametrize(
    "name", ["wan", "wan_two_experts", "ltx", "cogvideox", "LTX2Pipeline guided", "Cosmos2VideoToWorldPipeline"]
)
@pytest.mark.parametrize("at", [1, 5])
def test_a_pipeline_that_is_told_to_stop(name: str, at: int) -> None:
    """It goes through the rest of its schedule without a forward, and decodes. The next call is as ever."""
    case = BY_NAME[name]
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        clean = run(case, pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        run(case, pipe, callback_on_step_end=after(at, stop(pipe)))
        assert same(run(case, pipe), clean)
    assert [trace.steps for trace in session.traces] == [at, 10]
    assert session.traces[0].events[-1].total == 10
    assert reuse_line(session.traces[0].events) == reuse_line(session.traces[1].events)[:at]


@pytest.mark.parametrize("name", LOOPS)
def test_told_to_stop_in_the_second_loop_of_a_call(name: str) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        clean = run(case, pipe)
        run(case, pipe, callback_on_step_end=after(14, stop(pipe)))
        assert same(run(case, pipe), clean)
    assert [trace.steps for trace in session.traces][:4] == [10, 10, 10, 4]
    assert [trace.steps for trace in session.traces][-2:] == [10, 10]


@pytest.mark.parametrize("name", [*LOOPS, "SkyReelsV2DiffusionForcingPipeline long", "animatediff_free_init"])
@pytest.mark.parametrize("at", [1, 4, 13])
def test_a_call_that_broke_off_in_any_loop_is_not_continued_by_the_next(name: str, at: int) -> None:
    """After an exception no pipeline says that its run is over. In the very first step the next one looks the same."""
    case = BY_NAME[name]
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        clean = run(case, pipe)
        expected = [reuse_line(trace.events) for trace in session.traces]
    with bwcache.attach(pipe, CAREFREE) as session:
        with suppress(Halt):
            run(case, pipe, callback_on_step_end=after(at, halt))
        assert same(run(case, pipe), clean)
    assert [reuse_line(trace.events) for trace in session.traces][-len(expected) :] == expected


@pytest.mark.parametrize("case", [LUMINA2, Z_IMAGE, BY_NAME["stable_diffusion"]], ids=lambda case: case.name)
@pytest.mark.parametrize("at", [1, 4])
def test_pipelines_that_never_say_that_a_run_is_over(case: Case, at: int) -> None:
    """Their denoisers know no caches: there is nothing to reset at the end of a call."""
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE):
        clean = run(case, pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        with suppress(Halt):
            run(case, pipe, callback_on_step_end=after(at, halt))
        assert same(run(case, pipe), clean)
        assert same(run(case, pipe), clean)
    assert [trace.steps for trace in session.traces] == [at, 10, 10]


@pytest.mark.parametrize("name", ["wan", "HunyuanVideo15Pipeline", "MotifVideoPipeline"])
@pytest.mark.parametrize("forwards", [1, 2, 5])
def test_a_forward_that_raises_within_a_step(name: str, forwards: int) -> None:
    """Between the branches of a step: the next run begins anew, with the first branch."""
    case = BY_NAME[name]
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE):
        clean = run(case, pipe)
    left = [forwards]

    def breaking(module: Any, args: Any, output: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Halt

    (denoiser,) = denoisers(pipe).values()
    denoiser.register_forward_hook(breaking)
    with bwcache.attach(pipe, CAREFREE) as session:
        with pytest.raises(Halt):
            run(case, pipe)
        assert same(run(case, pipe), clean)
    assert [event.branch for event in session.trace.events][:2] == list(case.branches)
    assert session.trace.steps == 10


@pytest.mark.parametrize("name", ["wan", "LTX2Pipeline guided", "Kandinsky5T2VPipeline", "stable_diffusion", "svd"])
def test_runs_of_one_step(name: str) -> None:
    """Nothing to reuse, and each call is a run of its own."""
    case = BY_NAME[name]
    pipe = case.build()
    plain = run(case, pipe, num_inference_steps=1)
    with bwcache.attach(pipe, BWCache(threshold=1e6)) as session:
        for _ in range(3):
            assert same(run(case, pipe, num_inference_steps=1), plain)
    assert [trace.steps for trace in session.traces] == [1, 1, 1]
    assert all(event.total == 1 for trace in session.traces for event in trace.events)
    assert [event.branch for event in session.trace.events] == list(case.branches)


def test_a_bare_module_that_nobody_told_anything_keeps_nothing() -> None:
    """A distilled model of one step, called again and again at its only time."""
    module = wan_transformer()
    with bwcache.attach(module, BWCache()) as session, torch.no_grad():
        for seed in range(20):
            module(noise(1, 4, 2, 4, 4, seed=seed), torch.tensor([999.0]), noise(1, 6, 8))
    assert session.trace.peak_bytes <= 4 * session.trace.hidden_bytes
