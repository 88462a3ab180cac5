"""AdaCache and QuantCache's HLC: decision for decision and bit for bit what a second implementation does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import AdaCache, HierarchicalLatentCache, Observation, Readings, SettingError, Step
from bwcache.features import Motion
from tests import tiny
from tests.policies.plain import PlainStack, mean_change, run
from tests.policies.proof import PATCHES, proves
from tests.tiny import BY_NAME, noise

STEPS = 16
BOOK = ((0.1, 0.2, 0.3), (5, 4, 2, 1))


class Plain(PlainStack):
    """The method as the authors' code has it, but for what is looked at; a state for each branch."""

    def __init__(self, pipe: Any, branches: int, how: str, book: Any = BOOK, frames: int = 2) -> None:
        super().__init__(pipe, branches)
        self.how, self.book, self.frames = how, book, frames
        attention = [
            part
            for name, part in self.model.named_modules()
            if name.split(".")[-1] in ("attn1", "attn") and "blocks" in name and "refiner" not in name
        ]
        attention[max(len(attention) // 2 - 1, 0)].register_forward_hook(self._seen)
        self.model.register_forward_hook(self._returned)
        self.planned: dict[int, int] = {}
        self.rates: dict[int, int] = {}
        self.before: dict[int, Tensor] = {}
        self.motion: dict[int, float] = {}
        self.now: Tensor = torch.empty(0)
        self.all_rates: set[int] = set()

    def _seen(self, _m: Any, _a: Any, returned: Any) -> None:
        self.now = (returned[0] if isinstance(returned, tuple) else returned).clone()

    def _returned(self, _m: Any, _a: Any, returned: Any) -> None:
        """At the end of a computed forward the next one is planned."""
        if self.line[-1] == "reuse":
            return
        branch, rate, moves = self.branch, 1, self._moves(returned[0])
        if branch in self.before:
            planned = self.rates[branch]
            change = mean_change(self.now, self.before[branch]) / planned
            if self.how == "hlc":
                change *= moves
            elif self.how == "moreg":
                scaled = (moves / 0.385) ** 8 if 0.1 <= (self.step + 1) / STEPS <= 0.9 else 1.0
                change *= scaled + abs(10 * (scaled - self.motion.get(branch, 1.0)) / planned)
                self.motion[branch] = scaled
            rate = self.book[1][int(np.searchsorted(self.book[0], change, side="right"))]
        self.before[branch], self.rates[branch], self.planned[branch] = self.now, rate, self.step + rate
        self.all_rates.add(rate)

    def _moves(self, returned: Tensor) -> float:
        x = returned.double()
        later, sooner = (
            x.narrow(self.frames, 1, x.shape[self.frames] - 1),
            x.narrow(self.frames, 0, x.shape[self.frames] - 1),
        )
        return float((later - sooner).abs().sum() / (later.abs().sum() + sooner.abs().sum()))

    def computes(self) -> bool:
        return self.step == 0 or self.step >= STEPS - 2 or self.step >= self.planned[self.branch]


@proves(AdaCache, PATCHES)
@pytest.mark.parametrize("moreg", [False, True])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "hunyuan"])
def test_it_is_the_second_implementation_bit_for_bit(name: str, moreg: bool) -> None:
    case, book = BY_NAME[name], ((3.0, 30.0, 200.0), (5, 4, 2, 1)) if moreg else BOOK
    how, frames = "moreg" if moreg else "plain", 1 if name == "cogvideox" else 2
    other = Plain(pipe := case.build(), len(case.branches), how, book, frames)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), AdaCache(*book, moreg=moreg)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.line
    assert torch.equal(made, expected)
    assert other.line.count("reuse") >= 2 or moreg


@proves(HierarchicalLatentCache, PATCHES)
@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_hlc_is_the_second_implementation_bit_for_bit(name: str) -> None:
    case, book = BY_NAME[name], ((0.1, 0.2), (6, 3, 1))
    other = Plain(pipe := case.build(), len(case.branches), "hlc", book, 1 if name == "cogvideox" else 2)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), HierarchicalLatentCache(*book)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.line
    assert other.line.count("reuse") >= 2
    assert torch.equal(made, expected)


def told(policy: Any, measured: Mapping[int, tuple[float | None, ...]], total: int) -> str:
    """What it decides where the computed steps measure these; the last ones otherwise."""
    state, line = policy.init(), ""
    for index in range(total):
        step = Step(0, index, total, None, None, "cond")
        action = "compute" if index == 0 else policy.decide(Observation(step, "stack"), state).action
        line += action[0]
        if action == "compute":
            values = measured.get(index, (None, None))
            numbers = tuple(value or 0.0 for value in values)
            readings = Readings(numbers, tuple(0.0 if value is None else 1.0 for value in values))
            policy.refresh(Observation(step, "stack", readings), state)
    return line


def test_a_worked_sequence() -> None:
    """.09 is below .16: tau 2, then .17 / 2 below .16 again, .3 / 2 below .16, .5 / 2 above it."""
    policy = AdaCache((0.08, 0.16), (3, 2, 1))
    assert told(policy, {1: (0.09,), 3: (0.17,), 5: (0.3,), 7: (0.5,), 8: (0.05,)}, 14) == "ccrcrcrccrrccc"


def test_motion_shortens_what_change_allows() -> None:
    """m = .385 is 1 on its scale; where it stays, |mg| is 0; twice as much is 256."""
    measured = {1: (0.05, 0.385), 4: (0.15, 0.385), 7: (0.15, 0.77)}
    policy = AdaCache((0.08, 0.16), (3, 2, 1), moreg=True)
    assert told(policy, measured, 12) == "ccrrcrrccccc"
    assert told(AdaCache((0.08, 0.16), (3, 2, 1)), measured, 12) == "ccrrcrrcrrcc"


def test_motion_counts_as_one_before_it_counts() -> None:
    """m = .308 is .168 on its scale: 1 before it, so mg = -8.3 where motion first counts, and 0 where it stays."""
    policy = AdaCache((0.08, 0.16), (3, 2, 1), moreg=True)
    measured = {1: (0.05, 0.308), 2: (0.02, 0.308), 3: (0.05, 0.308)}
    assert told(policy, measured, 20) == "cccrr" + 15 * "c"
    assert told(policy, {1: (0.3, 0.0), 2: (0.1, 0.308)}, 40)[:6] == "cccrcc"  # neither counts yet: as without


def test_hlc_multiplies_both() -> None:
    policy = HierarchicalLatentCache((0.1, 0.2))
    assert told(policy, {1: (0.5, 0.1)}, 10) == "ccrrrrrccc"
    assert told(policy, {1: (0.5, 0.3)}, 10)[:5] == "ccrrc"
    assert told(policy, {1: (0.5, 0.5)}, 10)[:4] == "cccc"
    assert told(policy, {1: (0.5, None)}, 10)[:4] == "cccc"


def test_doubt_computes() -> None:
    policy = AdaCache()
    assert told(policy, {1: (math.nan,)}, 6) == "cccccc"
    state = policy.init()
    step = Step(0, 3, 9, None, None, "cond")
    assert policy.decide(Observation(step, "stack"), state).reason == "nothing to compare with yet"


def test_motion_is_what_differs_between_frames() -> None:
    x = noise(2, 3, 5, 4)
    for axis in (1, 2):
        numerator, denominator = Motion(axis)(x[None], x[None])[:, 0]
        later, sooner = np.delete(x.numpy(), 0, axis), np.delete(x.numpy(), -1, axis)
        assert float(numerator) == pytest.approx(np.abs(later - sooner).sum(), rel=1e-5)
        assert float(denominator) == pytest.approx((np.abs(later) + np.abs(sooner)).sum(), rel=1e-5)
    assert not Motion(1)(noise(1, 1, 4)[None], noise(1, 1, 4)[None]).any()


def test_rates_of_1_never_reuse_and_measure_nothing() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    for policy in (AdaCache((0.1,), (1, 1)), HierarchicalLatentCache((0.1, 0.2), (1, 1, 1))):
        with bwcache.attach(pipe, policy) as session:
            assert torch.equal(tiny.WAN.run(pipe), plain)
        assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [{"thresholds": ()}, {"thresholds": (0.2, 0.1), "rates": (3, 2, 1)}, {"thresholds": (math.nan,), "rates": (2, 1)},
     {"rates": (2, 1)}, {"rates": (6, 5, 4, 3, 2, 0)}, {"moreg": 1}, {"tail": -1}],
    ids=str,
)  # fmt: skip
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        AdaCache(**bad)
    with pytest.raises(SettingError, match="three of them"):
        HierarchicalLatentCache((0.1,), (2, 1))


def test_models_that_they_do_not_fit() -> None:
    for policy in (AdaCache(moreg=True), HierarchicalLatentCache((0.1, 0.2))):
        with pytest.raises(SettingError, match="latents of LTXVideoTransformer3DModel that lie as bnc; expected some"):
            bwcache.attach(tiny.ltx(), policy)
    with bwcache.attach(pipe := tiny.ltx(), AdaCache((2.0,), (3, 1))) as session:
        BY_NAME["ltx"].run(pipe)
    assert session.trace.reused > 0
