"""SenCache: decision for decision and bit for bit what a second implementation does."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import Observation, Readings, SenCache, SettingError, Step
from bwcache.engine.plan import Plan
from tests import tiny
from tests.policies.plain import PlainStack, run
from tests.policies.proof import PATCHES, proves
from tests.tiny import BY_NAME

STEPS = 15
TABLE = ((990.0, 0.3, 0.0005), (700.0, 0.2, 0.0004), (400.0, 0.5, 0.0002), (50.0, 0.4, 0.001))


class Plain(PlainStack):
    """The method as the authors' script has it, with roots of means in the place of norms."""

    def __init__(self, pipe: Any, branches: int, threshold: float, early: float, longest: int) -> None:
        super().__init__(pipe, branches)
        self.threshold, self.early, self.longest, self.pipe = threshold, early, longest, pipe
        self.table = np.array(TABLE)
        self.x: Tensor = torch.empty(0)
        self.reference: tuple[Tensor, float] | None = None
        self.skipped, self.skips_step = 0, False

    def begins(self, latents: Tensor) -> None:
        self.x = latents.clone()

    def computes(self) -> bool:
        if self.branch == 0:
            self.skips_step = self._may_skip()
            self.skipped = self.skipped + 1 if self.skips_step else 0
            if not self.skips_step:
                self.reference = (self.x, self._time)
        return not self.skips_step

    @property
    def _time(self) -> float:
        return float(self.pipe.scheduler.timesteps[self.step])

    def _may_skip(self) -> bool:
        if self.reference is None or not 1 <= self.step < STEPS - 1 or self.skipped >= self.longest:
            return False
        x, t = self.reference
        row = self.table[np.argmin(np.abs(self.table[:, 0] - t))]
        moved = float((self.x.double() - x.double()).square().mean().sqrt())
        most = self.early if self.step < round(0.2 * STEPS) else self.threshold
        return bool(row[1] * moved + row[2] * abs(self._time - t) < most)


@proves(SenCache, PATCHES)
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize(("threshold", "early", "longest"), [(0.15, 0.05, 2), (0.4, 0.4, 3), (9.0, 0.0, 5)])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "hunyuan", "ltx"])
def test_it_is_the_second_implementation_bit_for_bit(name: str, threshold: float, early: float, longest: int) -> None:
    case = BY_NAME[name]
    other = Plain(pipe := case.build(), len(case.branches), threshold, early, longest)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), SenCache(TABLE, threshold, early, longest)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.line
    assert threshold < 0.4 or other.line.count("reuse") >= 2
    assert torch.equal(made, expected)


def seen(index: int, moved: float | None, branch: str = "cond", timestep: float | None = None) -> Observation:
    readings = Readings((moved or 0.0,), (0.0 if moved is None else 1.0,))
    step = Step(0, index, 10, 1000 - 100 * index if timestep is None else timestep, None, branch)
    return Observation(step, "stack", readings, look=lambda: readings)


def test_a_worked_sequence() -> None:
    """.5 * sqrt(.04) = .1 for the latents, and .001 * 100 for each step of time."""
    policy = SenCache(((500.0, 0.5, 0.001),), threshold=0.45, early=0.25, longest=3)
    state = policy.init()
    policy.refresh(seen(0, None), state)
    reasons = []
    for index in range(1, 10):
        decision = policy.decide(seen(index, 0.04), state)
        reasons.append(decision.reason)
        if not decision.reuses:
            policy.refresh(seen(index, 0.04), state)
    assert reasons == [
        "output hardly changes (0.2000 < 0.25)",
        "output hardly changes (0.3000 < 0.45)",
        "output hardly changes (0.4000 < 0.45)",
        "longest window (after 3 reused steps)",
        "output hardly changes (0.2000 < 0.45)",
        "output hardly changes (0.3000 < 0.45)",
        "output hardly changes (0.4000 < 0.45)",
        "longest window (after 3 reused steps)",
        "tail (the last 1 steps)",
    ]


def test_other_branches_follow_the_first() -> None:
    policy = SenCache(TABLE, threshold=9.0)
    state = policy.init()
    for branch in ("cond", "uncond"):
        policy.refresh(seen(0, None, branch), state)
    first = policy.decide(seen(4, 0.1), state)
    assert first.reuses
    assert policy.decide(seen(4, 99.0, "uncond"), state) == first
    assert policy.decide(seen(5, 0.1, "uncond"), state).reason == "the branch that decides computes"


@pytest.mark.parametrize(
    ("moved", "computed", "reason"),
    [(None, 900.0, "nothing to compare with yet"), (math.nan, 900.0, "indicator is not finite"),
     (0.1, None, "timestep unknown")],
)  # fmt: skip
def test_doubt_computes(moved: float | None, computed: float | None, reason: str) -> None:
    policy = SenCache(TABLE, threshold=9.0)
    state = policy.init()
    policy.refresh(seen(0, None), state)
    state.computed = computed
    assert policy.decide(seen(4, moved), state).reason == reason


def test_the_nearest_time_of_the_table_counts() -> None:
    policy = SenCache(TABLE)
    assert policy.at(1000) == (0.3, 0.0005)
    assert policy.at(560) == (0.2, 0.0004)
    assert policy.at(550) == (0.2, 0.0004)
    assert policy.at(0) == (0.4, 0.001)


def test_tolerances_of_0_never_reuse_and_measure_nothing() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, SenCache(TABLE, 0, 0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [{"sensitivities": ()}, {"sensitivities": ((1, 2),)}, {"sensitivities": ((1, -1, 2),)},
     {"sensitivities": ((1, math.nan, 2),)}, {"threshold": -1}, {"early": -1}, {"longest": 0}],
    ids=str,
)  # fmt: skip
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        SenCache(**{"sensitivities": TABLE, **bad})


def swapped_by_hand(case: Any, steps: int) -> list[tuple[float, float, float]]:
    """Timestep, |J_x| and |J_t| of each step but the last, by calls of the denoiser's own forward: the first branch."""
    pipe = case.build()
    module = pipe.transformer
    own, branches = module.forward, len(case.branches)
    seen: list[tuple[Any, Any]] = []
    calls: list[dict[str, Any]] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        assert not args
        found = own(**kwargs)
        calls.append({**kwargs, "hidden_states": kwargs["hidden_states"].clone()})
        seen.append((calls[-1], found[0].clone()))
        return found

    module.forward = forward
    case.run(pipe, num_inference_steps=steps)
    times = [float(time) for time in pipe.scheduler.timesteps]
    rows = []
    with torch.no_grad():
        for i, ((call, f), (after, _)) in enumerate(pairwise(seen[::branches])):
            x, later = call["hidden_states"].double(), after["hidden_states"].double()
            by_latents = own(**{**call, "hidden_states": after["hidden_states"]})[0]
            by_time = own(**{**after, "hidden_states": call["hidden_states"]})[0]
            of_latents = float((by_latents.double() - f.double()).norm() / (later - x).norm())
            of_time = float((by_time.double() - f.double()).square().mean().sqrt()) / abs(times[i] - times[i + 1])
            rows.append((times[i], of_latents, of_time))
    return rows


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx"])
def test_its_sensitivities_are_those_of_the_definition(name: str) -> None:
    case = BY_NAME[name]
    expected = swapped_by_hand(case, 5)
    plain = case.run(case.build(), num_inference_steps=5)
    with bwcache.attach(pipe := case.build(), SenCache.measuring()) as session:
        assert torch.equal(case.run(pipe, num_inference_steps=5), plain)
        policy = SenCache.fitted([session.trace], threshold=9.0, longest=2)
    assert (policy.threshold, policy.early, policy.longest) == (9.0, 0.005, 2)
    assert len(policy.sensitivities) == 4
    assert np.array(policy.sensitivities) == pytest.approx(np.array(expected), rel=2e-3)
    assert (np.array(policy.sensitivities)[:, 1:] > 0).all()
    with bwcache.attach(pipe := case.build(), policy) as session:
        case.run(pipe, num_inference_steps=5)
    assert session.trace.reused > 0


def test_runs_of_another_kind_are_refused() -> None:
    with bwcache.attach(pipe := tiny.wan(), bwcache.MagCache.measuring()) as session:
        tiny.WAN.run(pipe, num_inference_steps=3)
    for traces in ([], session.traces):
        with pytest.raises(SettingError, match=r"traces of .*; expected runs .* under SenCache\.measuring\(\)"):
            SenCache.fitted(traces)


def test_a_cache_that_forwards_fill_would_be_filled_twice() -> None:
    stack = bwcache.models.resolve("transformer", tiny.wan().transformer)
    filling = dataclasses.replace(stack, cache_fill_flags=("flag",))  # type: ignore[arg-type]
    with pytest.raises(bwcache.AttachError, match="whose forwards fill a cache"):
        Plan.of(SenCache.measuring(), filling)
    tap = dataclasses.replace(stack.tap(0), end="by time")
    with pytest.raises(bwcache.AttachError, match=r"a tap 'by time' at blocks\.0; expected the root"):
        Plan.of(tapping(tap), stack)


def tapping(tap: bwcache.Tap) -> bwcache.Policy[None]:
    class Tapping(bwcache.NeverReuse):
        def taps(self, stack: bwcache.BlockStack) -> tuple[bwcache.Tap, ...]:
            return (tap,)

    return Tapping()
