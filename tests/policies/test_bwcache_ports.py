"""BWCache with `retrigger=False`: the timetable of the published ports, which the first trigger lays over the run."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import BWCache, Observation, Readings, SettingError, Step
from tests.policies.plain import PlainStack, mean_change, run
from tests.policies.proof import proves
from tests.tiny import BY_NAME
from tests.zoo import MODELS


def timetable(indicators: list[float], threshold: float, reused: int, total: int) -> list[str]:
    """As a list of ones and zeros: all ones until a step's mean is below; then the pattern; then ones at the end."""
    computes = np.ones(total, dtype=int)
    for k in range(1, total):
        if indicators[k] < threshold:
            pattern = [0] * reused + [1]
            computes[k + 1 :] = (pattern * total)[: total - k - 1]
            if k // 2:  # a slice of the last 0 entries would be all of them
                computes[-(k // 2) :] = 1
            break
    return ["compute" if one else "reuse" for one in computes]


def told(policy: BWCache, indicators: list[float], total: int) -> list[str]:
    """What the policy decides where the computed steps measure these."""
    state, line = policy.init(), list[str]()
    for index in range(total):
        step = Step(0, index, total, None, None, "cond_uncond")
        decision = policy.decide(Observation(step, "stack"), state) if index else bwcache.compute("first step")
        line.append(decision.action)
        if not decision.reuses:
            readings = Readings((indicators[index],), (1.0,)) if index else None
            policy.refresh(Observation(step, "stack", readings), state)
    return line


@pytest.mark.parametrize("seed", range(40))
def test_decisions_are_those_of_the_timetable(seed: int) -> None:
    chance = random.Random(seed)
    total, reused = chance.randrange(5, 50), chance.randrange(1, 5)
    indicators = [chance.choice((0.1, 0.3, 0.3, 0.3)) for _ in range(total)]
    policy = BWCache(0.2, float(reused), retrigger=False)
    assert told(policy, indicators, total) == timetable(indicators, 0.2, reused, total)


def test_it_asks_only_once() -> None:
    indicators = [0.0, 0.3, 0.1, *[0.9] * 9]
    line = "".join(action[0] for action in told(BWCache(0.2, 2, retrigger=False), indicators, 12))
    assert line == "cccrrcrrcrrc"  # k = 2: the last one step
    assert "".join(action[0] for action in told(BWCache(0.2, 2), indicators, 12)) == "cccrrccccccc"


class Plain(PlainStack):
    """The ports' way on a stack, by its blocks' outputs, each branch for itself."""

    def __init__(self, pipe: object, branches: int, threshold: float, reused: int, total: int) -> None:
        super().__init__(pipe, branches)
        self.threshold, self.reused, self.total = threshold, reused, total
        self.plans: dict[int, np.ndarray] = {}
        self.outputs: dict[tuple[int, int], torch.Tensor] = {}
        self.changes: list[float] = []

    def leaves(self, block: int, hidden: torch.Tensor) -> None:
        before, self.outputs[self.branch, block] = self.outputs.get((self.branch, block)), hidden.clone()
        if before is not None:
            self.changes.append(mean_change(hidden, before))

    def computes(self) -> bool:
        plan = self.plans.setdefault(self.branch, np.ones(self.total, dtype=int))
        self.changes = []
        return bool(plan[self.step])

    def left(self) -> torch.Tensor:
        return self.outputs[self.branch, len(self.blocks) - 1].clone()

    def computed(self, added: torch.Tensor) -> None:
        k, plan = self.step, self.plans[self.branch]
        if plan.all() and self.changes and float(np.mean(self.changes)) < self.threshold:
            plan[k + 1 :] = [int(i % (self.reused + 1) == self.reused) for i in range(self.total - k - 1)]
            if k // 2:
                plan[-(k // 2) :] = 1


@proves(BWCache, "the timetable of its published ports (retrigger=False), by plain patches")
@pytest.mark.parametrize("name", ["wan_unguided", "cogvideox", "ltx", "wan"])
def test_on_a_model_it_is_the_second_implementation(name: str) -> None:
    case, total = BY_NAME[name], 14
    other = Plain(pipe := case.build(), len(case.branches), 0.25, 2, total)
    expected = run(case, pipe, other, num_inference_steps=total)
    policy = BWCache(0.25, 2, sample=1, decision="per_branch", retrigger=False)
    with bwcache.attach(pipe := case.build(), policy) as session:
        made = case.run(pipe, num_inference_steps=total)
    assert [event.action for event in session.trace.events] == other.line
    assert other.line.count("reuse") >= 2
    assert torch.equal(made, expected)


INPUTS = {"wan_unguided": 0.07, "cogvideox": 0.1, "ltx": 0.056, "wan": 0.07}
"""Thresholds, so that the first trigger comes in the middle of a run."""


class PlainInputs(Plain):
    """The same, by what enters the attention of each block."""

    def __init__(self, pipe: object, *settings: float) -> None:
        super().__init__(pipe, *settings)  # type: ignore[arg-type]
        self.lasts: dict[int, torch.Tensor] = {}
        for block, module in enumerate(self.blocks):
            module.attn1.register_forward_pre_hook(partial(self._enters, block), with_kwargs=True)

    def _enters(self, block: int, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().leaves(block, args[0] if args else kwargs["hidden_states"])

    def leaves(self, block: int, hidden: torch.Tensor) -> None:
        self.last = hidden

    def left(self) -> torch.Tensor:
        return self.lasts[self.branch].clone()

    def computed(self, added: torch.Tensor) -> None:
        self.lasts[self.branch] = self.last.clone()
        super().computed(added)


@proves(BWCache, "what its published ports measure (compared='inputs'), by plain hooks")
@pytest.mark.parametrize("name", ["wan_unguided", "cogvideox", "ltx", "wan"])
def test_by_what_enters_attention_it_is_the_second_implementation(name: str) -> None:
    case, total = BY_NAME[name], 14
    branches = len(case.branches)
    other = PlainInputs(pipe := case.build(), branches, INPUTS[name], 2, total)
    expected = run(case, pipe, other, num_inference_steps=total)
    policy = BWCache(INPUTS[name], 2, sample=1, decision="per_branch", retrigger=False, compared="inputs")
    with bwcache.attach(pipe := case.build(), policy) as session:
        made = case.run(pipe, num_inference_steps=total)
    assert [event.action for event in session.trace.events] == other.line
    assert 2 <= other.line.count("reuse") < len(other.line) - 2 * branches
    assert torch.equal(made, expected)


def test_inputs_of_attention_need_a_row_with_parts() -> None:
    module = next(model for model in MODELS if model.name == "UNet2DModel").build()
    with pytest.raises(SettingError, match=r"parts of kind 'self'.*these fit as they are: "):
        bwcache.attach(module, BWCache(compared="inputs"), steps=30)


def test_bad_settings() -> None:
    with pytest.raises(SettingError, match="compared"):
        BWCache(compared="both")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="retrigger"):
        BWCache(retrigger=1)  # type: ignore[arg-type]
    assert BWCache(retrigger=False).describe()["retrigger"] is False
