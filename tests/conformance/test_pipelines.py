"""The laws on every pipeline, real, with tiny components: branches, steps, always-compute, reuse."""

from __future__ import annotations

import pytest
import torch

import bwcache
from bwcache.models import denoisers, resolve
from tests.tiny import CASES, Case, Scripted
from tests.zoo import PIPELINES
from tests.zoo.kinds import Pipeline


def loops(case: Case) -> int:
    return getattr(case, "loops", 1)


def rows(trace: bwcache.Trace) -> list[tuple[int, str, int | None]]:
    return [(event.step, event.branch, event.total) for event in trace.events]


each_pipeline = pytest.mark.parametrize("case", [*CASES, *PIPELINES], ids=lambda case: case.name)


@each_pipeline
def test_always_computing_is_identical_and_names_every_step_and_branch(case: Pipeline) -> None:
    pipe = case.build()
    expected = case.run(pipe)
    assert expected.isfinite().all()
    with bwcache.attach(pipe, bwcache.BWCache(threshold=0)) as session:
        assert torch.equal(case.run(pipe), expected)
        first = session.traces
        assert torch.equal(case.run(pipe), expected)
        second = session.traces[len(first) :]
    assert torch.equal(case.run(pipe), expected)
    assert len(first) == len(second) == loops(case), [len(trace.events) for trace in session.traces]
    assert [rows(trace) for trace in first] == [rows(trace) for trace in second]
    for trace in first:
        steps = sorted({event.step for event in trace.events})
        assert steps == list(range(len(steps)))
        assert all(event.total == len(steps) for event in trace.events)
        for step in steps:
            assert tuple(event.branch for event in trace.events if event.step == step) == case.branches, step


@each_pipeline
def test_reused_steps_skip_the_blocks_and_change_the_video(case: Pipeline) -> None:
    pipe = case.build()
    expected = case.run(pipe)
    ran: list[torch.nn.Module] = []
    for name, module in denoisers(pipe).items():
        for block in resolve(name, module).blocks:
            block.module.register_forward_hook(lambda module, args, output: ran.append(module))
    with bwcache.attach(pipe, Scripted(frozenset({2, 3, 6}))) as session:
        made = case.run(pipe)
        computed, traces = len(ran), session.traces
        again = case.run(pipe)
    for trace in traces:
        assert {event.step for event in trace.events if event.action == "reuse"} >= {2, 3}
    assert torch.equal(made, again)
    assert made.isfinite().all()
    assert not torch.equal(made, expected)
    ran.clear()
    case.run(pipe)
    assert 0 < computed < len(ran)
    if loops(case) == 1:  # else one loop may have more blocks to run than another, or fill a cache between
        events = traces[0].events
        assert computed == len(ran) * sum(event.action == "compute" for event in events) / len(events)
