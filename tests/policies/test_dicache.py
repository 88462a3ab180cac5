"""DiCache: decision for decision and bit for bit what a second implementation does, by plain patches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import AttachError, DiCache, Observation, Readings, SettingError, Step
from tests import tiny
from tests.policies.plain import PlainStack, mean_change, run
from tests.policies.proof import PATCHES, ROUNDED, proves
from tests.tiny import BY_NAME

STEPS = 14


class Plain(PlainStack):
    """The method as the authors' script for FLUX has it, with a state for each branch."""

    def __init__(self, pipe: Any, branches: int, threshold: float, probe: int, most: float, retention: float) -> None:
        super().__init__(pipe, branches)
        self.first, self.threshold, self.most, self.retention = probe, threshold, most, retention
        self.returned: dict[int, Tensor] = {}
        self.probed: Tensor = torch.empty(0)
        self.window: dict[int, list[Tensor]] = {}
        self.spent: dict[int, float] = {}
        self.lengths: list[float] = []

    def leaves(self, block: int, hidden: Tensor) -> None:
        if block == self.first - 1:
            self.probed = hidden.clone()

    def computes(self) -> bool:
        before, self.returned[self.branch] = self.returned.get(self.branch), self.probed
        if self.step <= int(self.retention * STEPS) or self.step == STEPS - 1 or before is None:
            self.spent[self.branch] = 0.0
        else:
            self.spent[self.branch] += mean_change(self.probed, before)
            if self.spent[self.branch] < self.threshold:
                return False
            self.spent[self.branch] = 0.0
        return True

    def computed(self, added: Tensor) -> None:
        self.window.setdefault(self.branch, []).append(self.probed - self.entered)

    def replayed(self, past: list[tuple[int, Tensor]]) -> Tensor:
        if len(past) < 2:
            return past[0][1]
        now, (older, newer) = self.probed - self.entered, self.window[self.branch][-2:]
        sizes = [float((one.double() - older.double()).abs().sum().float()) for one in (now, newer)]
        self.lengths.append(min(max(sizes[0] / sizes[1], 1.0), self.most))
        return past[1][1] + (past[0][1] - past[1][1]) * self.lengths[-1]


@proves(DiCache, PATCHES, ROUNDED)
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize(("threshold", "probe", "most", "retention"), [(0.4, 1, 1.5, 0.2), (0.6, 2, 9.0, 0.0)])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "hunyuan"])
def test_it_is_the_second_implementation(
    name: str, threshold: float, probe: int, most: float, retention: float
) -> None:
    case = BY_NAME[name]
    other = Plain(pipe := case.build(), len(case.branches), threshold, probe, most, retention)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), DiCache(threshold, probe, most, retention)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.line
    assert other.line.count("reuse") >= 2
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)  # sums of |p| in another order: gamma is rounded
    if most > 1.5 and name == "cogvideox":
        assert any(1 < length < most for length in other.lengths)


@proves(DiCache, PATCHES, "latents bit for bit, where gamma is 1")
@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_bit_for_bit_where_gamma_is_cut_to_1(name: str) -> None:
    case = BY_NAME[name]
    other = Plain(pipe := case.build(), len(case.branches), 0.7, 1, 1.0, 0.2)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), DiCache(0.7, most=1.0)) as session:
        assert torch.equal(case.run(pipe, num_inference_steps=STEPS), expected)
    assert session.trace.reused >= 2


def seen(index: int, change: float | None, moved: float = 3.0, between: float = 2.0) -> Observation:
    now = Readings((change or 0.0, 1.0, moved), (0.0 if change is None else 1.0, 1.0, 1.0))
    last = Readings((1.0, between, 1.0), (1.0, 1.0, 1.0))
    return Observation(Step(0, index, 10, None, None, "cond"), "blocks.1-blocks.3", last, look=lambda: now)


def test_a_worked_sequence() -> None:
    policy = DiCache(threshold=0.5)
    state = policy.init()
    changes = [None, 0.2, 0.2, 0.3, 0.1, 0.1, 0.3, 0.4, 0.2, 0.1]
    found = [policy.decide(seen(i, change), state) for i, change in enumerate(changes)]
    assert [decision.reason for decision in found] == [
        *["warm-up (the first 3 steps)"] * 3,
        "within the budget (0.3000 < 0.5)",
        "within the budget (0.4000 < 0.5)",
        "budget spent (0.5000 >= 0.5)",
        "within the budget (0.3000 < 0.5)",
        "budget spent (0.7000 >= 0.5)",
        "within the budget (0.2000 < 0.5)",
        "tail (the last 1 steps)",
    ]


@pytest.mark.parametrize(
    ("moved", "between", "length"),
    [
        (3.0, 2.0, 1.5),
        (2.4, 2.0, 1.2),
        (1.0, 2.0, 1.0),
        (9.0, 2.0, 1.5),
        (1.0, 0.0, 1.0),
        (0.0, 0.0, 1.0),
        (math.nan, 2.0, 1.0),
    ],
)
def test_how_far_along(moved: float, between: float, length: float) -> None:
    decision = DiCache().decide(seen(4, 0.1, moved, between), {})
    assert decision.how == bwcache.features.Extended(length)


@pytest.mark.parametrize("change", [None, math.nan, math.inf])
def test_doubt_computes_and_starts_from_0(change: float | None) -> None:
    policy = DiCache(threshold=0.5)
    state = policy.init()
    policy.decide(seen(3, 0.4), state)
    assert not policy.decide(seen(4, change), state).reuses
    assert policy.decide(seen(5, 0.3), state).value == 0.3
    policy.refresh(seen(6, None), state)
    assert policy.decide(seen(7, 0.4), state).value == 0.4


def test_it_keeps_two_hidden_states_in_each_branch() -> None:
    with bwcache.attach(pipe := tiny.wan(), DiCache(1.0)) as session:
        tiny.WAN.run(pipe)
    looks = 2 * 3  # the probe's last output, and what it added in the last two computed steps
    assert session.trace.peak_bytes == (2 * 2 + looks) * session.trace.hidden_bytes


def test_a_threshold_of_0_never_reuses_and_measures_nothing() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, DiCache(threshold=0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize("bad", [{"threshold": -1}, {"probe": 0}, {"most": 0.5}, {"retention": 2}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        DiCache(**bad)


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match="found 4 blocks in WanTransformer3DModel, and a probe of 4"):
        bwcache.attach(tiny.wan(), DiCache(probe=4))
