"""Foresight: decision for decision and bit for bit what a second implementation does, written on plain patches."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import bwcache
from bwcache import Foresight, Observation, Readings, SettingError, Step
from tests import tiny
from tests.policies.proof import PATCHES, proves
from tests.tiny import BY_NAME


class Plain:
    """The method on the forwards of the blocks themselves; knows the number of branches and of warm-up steps."""

    def __init__(self, branches: int, warmup: int, reuses: int, scale: float) -> None:
        self.branches, self.warmup, self.reuses, self.scale = branches, warmup, reuses, scale
        self.forwards = -1
        self.kept: dict[tuple[int, int], Any] = {}
        self.most: dict[tuple[int, int], float] = {}
        self.change: dict[tuple[int, int], float] = {}
        self.line: list[str] = []

    def attach(self, undo: ExitStack, transformer: Any, blocks: list[Any]) -> None:
        def counting(*args: Any, inner: Callable[..., Any] = transformer.forward, **kwargs: Any) -> Any:
            self.forwards += 1
            return inner(*args, **kwargs)

        for module, forward in [(transformer, counting), *((b, self._around(i, b)) for i, b in enumerate(blocks))]:
            module.forward = forward
            undo.callback(delattr, module, "forward")

    def _around(self, i: int, block: Any) -> Callable[..., Any]:
        inner = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            step, branch = divmod(self.forwards, self.branches)
            key = (branch, i)
            free = step >= self.warmup and (step - self.warmup) % (self.reuses + 1) != 0
            if free and self.change[key] <= self.scale * self.most[key]:
                self.line.append("reuse")
                return tuple(map(torch.clone, self.kept[key])) if isinstance(self.kept[key], tuple) else self.kept[key]
            self.line.append("compute")
            new = inner(*args, **kwargs)
            new = tuple(map(torch.clone, new)) if isinstance(new, tuple) else new.clone()
            if key in self.kept:
                picture, before = (value[0] if isinstance(value, tuple) else value for value in (new, self.kept[key]))
                self.change[key] = float((picture.double() - before.double()).square().mean())
                age = self.warmup - 1 - step
                if age in (0, 1, 2):
                    self.most[key] = self.most.get(key, 0.0) + self.change[key] / 10**age
            self.kept[key] = new
            return new

        return forward


@proves(Foresight, PATCHES)
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize(("scale", "reuses"), [(0.5, 1), (1.0, 2), (2.0, 3)])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "hunyuan"])
def test_it_is_the_second_implementation_bit_for_bit(name: str, scale: float, reuses: int) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    other = Plain(len(case.branches), 3, reuses, scale)
    lists = ("blocks", "transformer_blocks", "single_transformer_blocks")
    with ExitStack() as undo:
        blocks = [block for part in lists for block in getattr(pipe.transformer, part, ())]
        other.attach(undo, pipe.transformer, blocks)
        expected = case.run(pipe, num_inference_steps=12)
    with bwcache.attach(pipe, Foresight(scale, reuses, warmup=0.25)) as session:
        made = case.run(pipe, num_inference_steps=12)
    assert [event.action for event in session.trace.events] == other.line
    assert scale < 2 or other.line.count("reuse") > 0
    assert torch.equal(made, expected)


def test_blocks_of_one_step_decide_differently() -> None:
    pipe = tiny.wan()
    with bwcache.attach(pipe, Foresight(scale=1.0, reuses=2)) as session:
        tiny.WAN.run(pipe, num_inference_steps=20)
    by_step: dict[tuple[int, str], set[str]] = {}
    for event in session.trace.events:
        by_step.setdefault((event.step, event.branch), set()).add(event.action)
    assert any(actions == {"compute", "reuse"} for actions in by_step.values())


def told(policy: Foresight, changes: list[float | None], total: int = 20) -> list[str]:
    """What it decides from step 1 on, if one block's changes at computed steps are these, in order."""
    state, left, reasons = policy.init(), list(changes), []
    for index in range(total):
        step = Step(0, index, total, None, None, "cond")
        decision = policy.decide(Observation(step, "blocks.0"), state) if index else None
        reasons.append(decision.reason.split(" (")[0] if decision else "first step")
        if decision is None or not decision.reuses:
            change = left.pop(0) if left else 0.0
            seen = None if change is None else Readings((change,), (1.0,), (), ("blocks.0",))
            policy.refresh(Observation(step, "blocks.0", seen), state)
    return reasons[1:]


def test_a_worked_sequence() -> None:
    # W = 4: lambda = .1 + 2 / 10 + 30 / 100 = .6 from the changes 30, 2, .1; gamma * lambda = .3
    reasons = told(Foresight(0.5, 2, 0.4), [None, 30.0, 2.0, 0.1, 0.31, 0.29, 0.3], total=10)
    assert reasons == [
        *("warm-up",) * 3,
        "all blocks are computed",
        "block changed",
        "block hardly changed",
        "all blocks are computed",
        "block hardly changed",
        "block hardly changed",
    ]


def test_what_is_not_finite_is_computed() -> None:
    reasons = told(Foresight(1.0, 1, 0.2), [None, 1.0, math.nan, 1.0, 1.0], total=10)
    assert reasons[1:5] == [
        "all blocks are computed",
        "indicator is not finite",
        "all blocks are computed",
        "block hardly changed",
    ]
    assert "block hardly changed" not in told(Foresight(9.0, 1, 0.2), [None, math.inf, 1.0], total=10)


def test_another_denoiser_warms_up_anew() -> None:
    policy = Foresight(9.0, 1, 0.1)
    state = policy.init()
    for index in range(8):
        name = "transformer" if index < 4 else "transformer_2"
        seen = Readings((1.0,), (1.0,), (), ("blocks.0",)) if index not in (0, 4) else None
        step = Step(0, index, 20, None, None, "cond")
        policy.refresh(Observation(step, "blocks.0", seen, denoiser=name), state)
    first, second = (state[name, "cond", "blocks.0"] for name in ("transformer", "transformer_2"))
    assert (first.since, second.since) == (0, 4)
    case = BY_NAME["wan_two_experts"]
    pipe = case.build()
    with bwcache.attach(pipe, Foresight(scale=9.0)) as session:
        case.run(pipe)
    reused = {event.site.split("/")[0] for event in session.trace.events if event.action == "reuse"}
    assert reused == {"transformer", "transformer_2"}


def test_a_scale_of_0_never_reuses() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, Foresight(scale=0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize("bad", [{"scale": -1}, {"reuses": 0}, {"reuses": 1.5}, {"warmup": 1.1}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        Foresight(**bad)


def test_only_the_last_three_steps_of_the_warm_up_count() -> None:
    """Lambda as in the worked sequence, .6; a fourth step would add .5 to it."""
    reasons = told(Foresight(0.5, 2, 0.5), [None, 900.0, 500.0, 30.0, 2.0, 0.1, 0.31], total=12)
    assert reasons[:7] == [*("warm-up",) * 5, "all blocks are computed", "block changed"]
