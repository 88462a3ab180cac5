"""EasyCache: decision for decision and bit for bit what a second implementation does, around the denoiser's forward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import EasyCache, Observation, Readings, SettingError, Step
from bwcache.core.trace import reuse_line
from tests import tiny
from tests.policies.proof import PATCHES, proves
from tests.tiny import BY_NAME


class Plain:
    """The method in one function, as the authors have it; the first of the branches decides."""

    def __init__(self, inner: Any, branches: int, warmup: int, steps: int, threshold: float) -> None:
        self.inner, self.branches = inner, branches
        self.warmup, self.steps, self.threshold = warmup, steps, threshold
        self.count, self.spent, self.line = 0, 0.0, []  # type: ignore[var-annotated]
        self.k: float | None = None
        self.previous: Tensor | None = None
        self.computed: Tensor | None = None
        self.output: Tensor | None = None
        self.kept: dict[int, Tensor] = {}
        self.computes = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = kwargs["hidden_states"]
        step, branch = divmod(self.count, self.branches)
        self.count += 1
        if branch == 0:
            self._decide(step, x)
            self.previous = x.clone()
        self.line.append("compute" if self.computes else "reuse")
        if not self.computes:
            return (self.kept[branch] + x,)
        out = self.inner(*args, **kwargs)[0]
        self.kept[branch] = out - x
        if branch == 0:
            if self.output is not None and self.computed is not None:
                self.k = float((out - self.output).abs().mean() / (x - self.computed).abs().mean())
            self.output, self.computed = out.clone(), x.clone()
        return (out,)

    def _decide(self, step: int, x: Tensor) -> None:
        self.computes = True
        if step < self.warmup or step >= self.steps - 1:
            self.spent = 0.0
        elif self.k is not None and self.previous is not None and self.output is not None:
            self.spent += self.k * float((x - self.previous).abs().mean() / self.output.abs().mean())
            self.computes = not self.spent < self.threshold
            if self.computes:
                self.spent = 0.0


@proves(EasyCache, PATCHES)
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("threshold", [0.1, 0.4])
@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "ltx", "hunyuan"])
def test_it_is_the_second_implementation_bit_for_bit(name: str, warmup: int, threshold: float) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    inner = pipe.transformer.forward
    other = Plain(inner, len(case.branches), warmup, 12, threshold)
    pipe.transformer.forward = other
    try:
        expected = case.run(pipe, num_inference_steps=12)
    finally:
        del pipe.transformer.forward
    with bwcache.attach(pipe, EasyCache(threshold, warmup)) as session:
        made = case.run(pipe, num_inference_steps=12)
    assert [event.action for event in session.trace.events] == other.line
    assert threshold < 0.4 or "reuse" in other.line
    assert torch.equal(made, expected)


def seen(index: int, branch: str, moved: float, last: tuple[float, float, float] | None) -> Observation:
    """The input moved by so much since the step before; `last`: input moved, output moved, size of the output."""
    now = Readings((moved, moved, 0.0), (1.0, 1.0, 0.0))
    then = None if last is None else Readings((9.9, last[0], last[1]), (9.9, 1.0, last[2]))
    step = Step(0, index, 10, None, None, branch)
    return Observation(step, "root", then, look=lambda: now)


def test_a_worked_sequence() -> None:
    policy = EasyCache(threshold=0.1, warmup=2)
    state = policy.init()
    policy.refresh(seen(0, "cond", 0.0, None), state)
    last = (2.0, 1.0, 5.0)  # k = 1 / 2; an input that moves by .4 changes the output by .2 of 5
    found = [policy.decide(seen(i, "cond", 0.4, last), state) for i in range(1, 10)]
    assert [decision.reason for decision in found] == [
        "warm-up (the first 2 steps)",
        "output hardly changes (0.0400 < 0.1)",
        "output hardly changes (0.0800 < 0.1)",
        "output changes (0.1200 >= 0.1)",
        "output hardly changes (0.0400 < 0.1)",
        "output hardly changes (0.0800 < 0.1)",
        "output changes (0.1200 >= 0.1)",
        "output hardly changes (0.0400 < 0.1)",
        "tail (the last step)",
    ]
    assert found[1].value == pytest.approx(0.04)


def test_other_branches_follow_the_first() -> None:
    policy = EasyCache(threshold=0.1, warmup=0)
    state = policy.init()
    for branch in ("cond", "uncond"):
        policy.refresh(seen(0, branch, 0.0, None), state)
    first = policy.decide(seen(3, "cond", 0.4, (2.0, 1.0, 5.0)), state)
    assert first.reuses
    assert policy.decide(seen(3, "uncond", 9.0, None), state) == first
    # a step in which the first branch was not asked: whatever came in between made it compute
    assert policy.decide(seen(4, "uncond", 0.0, None), state).reason == "the branch that decides computes"


@pytest.mark.parametrize(
    ("moved", "last", "reason"),
    [
        (0.4, None, "nothing to compare with yet"),
        (0.4, (2.0, 0.0, 0.0), "nothing to compare with yet"),
        (0.4, (0.0, 1.0, 5.0), "indicator is not finite"),
        (math.nan, (2.0, 1.0, 5.0), "indicator is not finite"),
    ],
)
def test_doubt_computes(moved: float, last: Any, reason: str) -> None:
    policy = EasyCache(warmup=0)
    state = policy.init()
    policy.refresh(seen(0, "cond", 0.0, None), state)
    assert policy.decide(seen(3, "cond", moved, last), state).reason == reason
    assert policy.decide(seen(4, "cond", 0.0, (2.0, 1.0, 5.0)), state).reuses  # and it starts from 0


def test_timing_changes_nothing() -> None:
    lines = []
    for timing in (False, True):
        pipe = tiny.wan()
        with bwcache.attach(pipe, EasyCache(0.4, 2), timing=timing) as session:
            made = tiny.WAN.run(pipe)
        lines.append((reuse_line(session.trace.events), made))
    assert "rr" in lines[0][0]
    assert lines[0][0] == lines[1][0]
    assert torch.equal(lines[0][1], lines[1][1])


def test_a_threshold_of_0_never_reuses() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, EasyCache(threshold=0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize("bad", [{"threshold": -1}, {"warmup": -1}, {"warmup": 2.5}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        EasyCache(**bad)


def test_a_change_as_large_as_the_threshold_is_computed() -> None:
    """1/4 of the input, 1/4 of the output: 1/16, exactly."""
    for threshold, action in ((0.0625, "compute"), (0.0626, "reuse")):
        policy = EasyCache(threshold=threshold, warmup=0)
        state = policy.init()
        policy.refresh(seen(0, "cond", 0.0, None), state)
        assert policy.decide(seen(1, "cond", 0.5, (2.0, 1.0, 4.0)), state).action == action
