"""Always-compute changes nothing, the same call gives the same video, and the trace has a row for everything."""

from dataclasses import replace

import pytest
import torch

import bwcache
from bwcache import BWCache, Linear, NeverReuse
from bwcache.models import denoisers
from tests.tiny import VIDEO_TO_VIDEO, Case, Scripted, each_case

CAREFREE = BWCache(threshold=10.0, reuse_interval=2)

NEVER_REUSING = {
    "compute": NeverReuse(),
    "threshold_0": BWCache(threshold=0),
    "threshold_0_exact": BWCache(threshold=0, sample=1, predictor=Linear()),
    "threshold_0_per_branch": BWCache(threshold=0, decision="per_branch"),
    "scripted": Scripted(),
}


@each_case
@pytest.mark.parametrize("policy", NEVER_REUSING.values(), ids=NEVER_REUSING)
def test_always_compute_is_bit_identical(case: Case, policy: bwcache.Policy) -> None:
    pipe = case.build()
    plain = case.run(pipe)
    with bwcache.attach(pipe, policy, timing=True) as session:
        assert torch.equal(case.run(pipe), plain)
    assert session.trace.reused == 0
    assert session.trace.reuse_rate == 0


@each_case
@pytest.mark.parametrize("predictor", [bwcache.Last(), Linear(), bwcache.Taylor(2)], ids=repr)
def test_two_cached_runs_are_equal(case: Case, predictor: bwcache.Predictor) -> None:
    pipe = case.build()
    plain = case.run(pipe)
    policy = BWCache(threshold=10.0, reuse_interval=2, predictor=predictor)
    with bwcache.attach(pipe, policy) as session:
        first, second = case.run(pipe), case.run(pipe)
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)  # caching did something
    assert session.traces[0].events == [replace(event, run=0) for event in session.traces[1].events]
    assert session.traces[0].reuse_rate > 0.3


@each_case
def test_the_trace_has_steps_x_branches_rows_in_order(case: Case) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        case.run(pipe)
    schedule = pipe.scheduler.timesteps.tolist()
    expected = [(index, branch) for index in range(10) for branch in case.branches]
    events = session.trace.events
    assert [(event.step, event.branch) for event in events] == expected
    assert {event.total for event in events} == {10}
    assert {event.run for event in events} == {0}
    assert [event.timestep for event in events] == [schedule[index] for index, _ in expected]
    for event in events:
        assert event.site.endswith("/stack")
        assert (event.distances is None) == (event.indicator is None)
        if event.distances is not None:
            assert event.action == "compute"
            assert event.indicator == pytest.approx(sum(event.distances) / len(event.distances))
            assert len(event.distances) == 4


@each_case
def test_the_trace_knows_the_noise_levels_where_the_scheduler_has_them(case: Case) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        case.run(pipe)
    sigmas = getattr(pipe.scheduler, "sigmas", None)
    for event in session.trace.events:
        assert event.sigma == (None if sigmas is None else pytest.approx(float(sigmas[event.step])))


@each_case
def test_seconds_are_taken_when_asked_for_and_only_then(case: Case) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE, timing=True) as session:
        case.run(pipe)
    computed = [event for event in session.trace.events if event.action == "compute"]
    assert all(event.seconds > 0 and event.indicator_seconds > 0 for event in computed)
    assert sum(event.indicator_seconds for event in computed) < sum(event.seconds for event in computed)
    with bwcache.attach(pipe, CAREFREE) as session:
        case.run(pipe)
    assert all(event.seconds is None and event.indicator_seconds is None for event in session.trace.events)


@each_case
def test_only_the_denoisers_are_found(case: Case) -> None:
    names = list(denoisers(case.build()))
    assert names == (["transformer", "transformer_2"] if case.name == "wan_two_experts" else ["transformer"])


def test_a_pipeline_that_names_no_branch_is_followed_too() -> None:
    pipe = VIDEO_TO_VIDEO.build()
    plain = VIDEO_TO_VIDEO.run(pipe)
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        assert torch.equal(VIDEO_TO_VIDEO.run(pipe), plain)
    rows = [(event.step, event.branch) for event in session.trace.events]
    assert rows == [(index, branch) for index in range(8) for branch in ("call0", "call1")]
