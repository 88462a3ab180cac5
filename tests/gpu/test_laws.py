"""On a GPU the laws are the same: nothing changes where nothing is reused, and a replay is brute force."""

from __future__ import annotations

import pytest
import torch

import bwcache
from bwcache import Adaptive, BWCache, Damped, Linear
from bwcache.features import taps
from tests.beside.attached import CAREFREE, LINE, lines, same
from tests.engine.test_replay import by_brute_force
from tests.gpu.on_cuda import DEVICE, each_case_on_cuda, on_cuda, wan_case
from tests.tiny import BY_NAME, WAN, Case, Scripted


@each_case_on_cuda
@pytest.mark.parametrize(
    "policy", [BWCache(threshold=0), bwcache.NeverReuse(measures=1)], ids=["threshold 0", "measures"]
)
def test_always_computing_changes_no_bit(case: Case, policy: bwcache.Policy) -> None:
    pipe = case.build()
    without = case.run(pipe)
    with bwcache.attach(pipe, policy):
        same(case.run(pipe), without)
    same(case.run(pipe), without)


@each_case_on_cuda
def test_replay_equals_brute_force(case: Case) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        cached = case.run(pipe)
        same(case.run(pipe), cached)
    assert session.traces[0].reused > 0
    same(by_brute_force(case, session.traces[0].events), cached)


@each_case_on_cuda
@pytest.mark.parametrize(
    "policy",
    [CAREFREE, BWCache(threshold=10.0, reuse_interval=2, predictor=Linear()), Adaptive(tolerance=1.0)],
    ids=["replay", "linear", "adaptive"],
)
def test_what_waits_in_main_memory_comes_back_whole(case: Case, policy: bwcache.Policy) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        cached = case.run(pipe)
    with bwcache.attach(pipe, policy, memory="offload"):
        same(case.run(pipe), cached)
        same(case.run(pipe), cached)
    assert session.trace.reused > 0


@pytest.mark.parametrize("share", [None, 1, 0.3], ids=str)
@pytest.mark.parametrize("few", [taps.FEW, 0], ids=["few", "many"])
def test_the_indicator_is_the_cpu_s(share: float | None, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By other kernels and, with all of many tokens, by the project's own; the latents differ in the last bits."""
    monkeypatch.setattr(taps, "FEW", few)
    found = []
    for case in (WAN, wan_case()):
        pipe = case.build()
        with bwcache.attach(pipe, BWCache(threshold=1e-9, sample=share)) as session:
            case.run(pipe)
        found.append([event.indicator for event in session.trace.events if event.indicator is not None])
    assert len(found[0]) > 10
    assert found[1] == pytest.approx(found[0], rel=2e-2 if share is None else 1e-3)


@pytest.mark.parametrize("share", [None, 1], ids=str)
def test_in_bfloat16(share: float | None) -> None:
    case = on_cuda(WAN, torch.bfloat16)
    pipe = case.build()
    with bwcache.attach(pipe, BWCache(threshold=10.0, reuse_interval=2, sample=share)) as session:
        cached = case.run(pipe)
    assert lines(session) == [LINE]
    same(by_brute_force(case, session.trace.events), cached)


@pytest.mark.parametrize("name", ["wan", "hunyuan", "cogvideox"])
@pytest.mark.parametrize("memory", ["device", "offload"])
def test_in_further_reused_steps_the_engine_waits_for_nothing(name: str, memory: str) -> None:
    """By torch's own sync debug mode: as an error where the engine is at work, and not in what pipelines do between."""
    case = on_cuda(BY_NAME[name])
    pipe = case.build()
    branches, seen = len(case.branches), [0]

    def enter(*_: object) -> None:
        seen[0] += 1
        step = (seen[0] - 1) // branches
        torch.cuda.set_sync_debug_mode("error" if step in (4, 5, 8) else "default")

    def leave(*_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")

    policy = Scripted(frozenset({3, 4, 5, 7, 8}), Damped())
    with bwcache.attach(pipe, policy, memory=memory) as session:
        case.run(pipe)  # what is looked at once in a session is not looked at again
        hooks = [
            pipe.transformer.register_forward_pre_hook(enter, prepend=True),
            pipe.transformer.register_forward_hook(leave),
        ]
        try:
            case.run(pipe)
        finally:
            leave()
            for hook in hooks:
                hook.remove()
    assert seen[0] == 10 * branches
    assert sum(event.action == "reuse" for event in session.trace.events) == 5 * branches


def test_after_a_run_nothing_is_held() -> None:
    case = wan_case()
    pipe = case.build()
    for policy in (CAREFREE, BWCache(threshold=10.0, sample=1), Adaptive()):
        case.run(pipe)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(DEVICE)
        with bwcache.attach(pipe, policy) as session:
            case.run(pipe)
            torch.cuda.synchronize()
            assert torch.cuda.memory_allocated(DEVICE) <= before + 4096, policy
        assert session.trace.peak_bytes > 0
