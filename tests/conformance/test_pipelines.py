"""The laws on every pipeline, real, with tiny components: branches, steps, always-compute, reuse."""

from __future__ import annotations

import pytest
import torch
from tiny import CASES, Scripted
from zoo import PIPELINES
from zoo.kinds import Pipeline

import bwcache
from bwcache.models import denoisers, resolve

each_pipeline = pytest.mark.parametrize("case", [*CASES, *PIPELINES], ids=lambda case: case.name)


@each_pipeline
def test_always_computing_is_identical_and_names_every_step_and_branch(case: Pipeline) -> None:
    pipe = case.build()
    expected = case.run(pipe)
    assert expected.isfinite().all()
    with bwcache.attach(pipe, bwcache.BWCache(threshold=0)) as session:
        assert torch.equal(case.run(pipe), expected)
        first = session.trace
        assert torch.equal(case.run(pipe), expected)
    assert torch.equal(case.run(pipe), expected)
    assert len(session.traces) == 2, [len(trace.events) for trace in session.traces]
    assert [(e.step, e.branch, e.total) for e in first.events] == [
        (e.step, e.branch, e.total) for e in session.trace.events
    ]
    steps = sorted({event.step for event in first.events})
    assert steps == list(range(len(steps)))
    assert all(event.total == len(steps) for event in first.events)
    for step in steps:
        assert tuple(event.branch for event in first.events if event.step == step) == case.branches, step


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
        computed = len(ran)
        again = case.run(pipe)
    events = session.trace.events
    assert {event.step for event in events if event.action == "reuse"} >= {2, 3}
    assert torch.equal(made, again)
    assert made.isfinite().all()
    assert not torch.equal(made, expected)
    ran.clear()
    case.run(pipe)
    forwards = len(events)
    assert computed == len(ran) * sum(event.action == "compute" for event in events) / forwards
