"""TaylorSeer: decision for decision what diffusers' hook does, and its latents up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import AttachError, SettingError, TaylorSeer
from tests import tiny
from tests.parts import with_parts
from tests.policies.oracle import taylorseer
from tests.policies.proof import ROUNDED, proves
from tests.tiny import BY_NAME, Case

STEPS = 12
CLOSE = 2e-5
"""Relative: differences of differences against one weighted sum, over all steps of a run."""

MODELS = ("wan", "wan_unguided", "cogvideox", "ltx", "hunyuan")


def timetable(interval: int, warmup: int, steps: int) -> list[bool]:
    """The paper's: the first steps, then every N-th from the last of these on."""
    found = [index < max(warmup, 1) for index in range(steps)]
    for index in range(max(warmup, 1) - 1, steps, interval):
        found[index] = True
    return found


def run(case: Case, policy: bwcache.Policy[Any]) -> tuple[torch.Tensor, bwcache.Trace]:
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    return made, session.trace


def layers_of(trace: bwcache.Trace) -> list[str]:
    return list(dict.fromkeys(event.site.partition("/")[2] for event in trace.events))


@proves(TaylorSeer, "diffusers' hook as it comes", ROUNDED)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("warmup", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_diffusers_hook_as_it_comes(name: str, warmup: int, order: int) -> None:
    """With an interval of 2 the hook's own timetable is the paper's."""
    case = BY_NAME[name]
    made, trace = run(case, TaylorSeer(2, order, warmup))
    pipe = case.build()
    settings: dict[str, Any] = {"cache_interval": 2, "disable_cache_before_step": warmup, "max_order": order}
    with taylorseer(pipe, layers_of(trace), **settings) as said:
        expected = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in trace.events] == said
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()
    assert trace.reused > 0


@proves(TaylorSeer, "diffusers' hook on the paper's timetable", ROUNDED)
@pytest.mark.parametrize(("interval", "order"), [(3, 1), (4, 2), (5, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_hook_on_the_papers_timetable(name: str, interval: int, order: int) -> None:
    case = BY_NAME[name]
    made, trace = run(case, TaylorSeer(interval, order))
    pipe, computes = case.build(), timetable(interval, 3, STEPS)
    with taylorseer(pipe, layers_of(trace), computes.__getitem__, max_order=order) as said:
        expected = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in trace.events] == said
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()
    never, _ = run(case, bwcache.NeverReuse())
    assert (made - never).abs().max() > 100 * CLOSE * never.abs().max()


@proves(TaylorSeer, "a second implementation in numpy (lite)", ROUNDED)
@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_lite_forecasts_the_last_block_alone(name: str) -> None:
    """A second implementation on the last block's forward, in numpy; the blocks before do not run."""
    case, interval, warmup = BY_NAME[name], 3, 2
    made, trace = run(case, TaylorSeer(interval, 2, warmup, lite=True))
    pipe = case.build()
    lists = ("blocks", "transformer_blocks", "single_transformer_blocks")
    last = [block for part in lists for block in getattr(pipe.transformer, part, ())][-1]
    inner, computes, calls = last.forward, timetable(interval, warmup, STEPS), [0]
    kept: dict[int, dict[int, list[np.ndarray]]] = {}  # by branch: step -> F and its differences

    def forward(*args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(calls[0], len(case.branches))
        calls[0] += 1
        own = kept.setdefault(branch, {})
        returned = inner(*args, **kwargs)
        first = returned[0] if isinstance(returned, tuple) else returned
        if computes[step]:
            found, before = [first.numpy().astype(np.float64)], max(own, default=None)
            for older in own[before][:2] if before is not None else ():
                found.append((found[-1] - older) / (step - before))
            own[step] = found
            return returned
        newest = max(own)
        k = step - newest
        value = sum(each * k**i / (1, 1, 2)[i] for i, each in enumerate(own[newest]))
        forecast = torch.from_numpy(np.asarray(value)).to(first.dtype)
        return (forecast, *returned[1:]) if isinstance(returned, tuple) else forecast

    last.forward = forward
    expected = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action == "compute" for event in trace.events] == [now for now in computes for _ in case.branches]
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()
    assert {event.site.partition("/")[2] for event in trace.events} == {"stack"}


def test_the_timetable_of_the_paper() -> None:
    _, trace = run(tiny.WAN, TaylorSeer(5, 1, 3, lite=True))
    computed = [event.step for event in trace.events if event.branch == "cond" and event.action == "compute"]
    assert computed == [0, 1, 2, 7]
    assert [event.reason for event in trace.events if event.branch == "cond"][1:8] == [
        "warm-up (the first 3 steps)",
        "warm-up (the first 3 steps)",
        *(f"forecast (step {age} after a computed one)" for age in (1, 2, 3, 4)),
        "interval over (after 4 reused steps)",
    ]


def test_another_expert_begins_anew() -> None:
    case = BY_NAME["wan_two_experts"]
    made, trace = run(case, TaylorSeer(3, 1, 2))
    first = min(event.step for event in trace.events if event.site.startswith("transformer_2/"))
    assert all(event.action == "compute" for event in trace.events if event.step == first)
    assert all(event.action == "reuse" for event in trace.events if event.step == first + 1)
    assert made.isfinite().all()


def test_a_model_without_parts() -> None:
    spec = with_parts(type(tiny.wan_transformer()))
    with pytest.raises(AttachError, match=r"no parts .*say TaylorSeer\(lite=True\)"):
        bwcache.attach(tiny.wan_transformer(), TaylorSeer(), spec=spec)
    with bwcache.attach(tiny.wan_transformer(), TaylorSeer(lite=True), steps=4, spec=spec):
        pass


@pytest.mark.parametrize("bad", [{"interval": 0}, {"order": 10}, {"order": -1}, {"warmup": -1}, {"lite": 1}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        TaylorSeer(**bad)
