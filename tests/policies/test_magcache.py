"""MagCache: decisions and bits of diffusers' own hook, and ratios that are those of the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import MagCache, Observation, SettingError, Step, Trace
from bwcache.policies.magcache import FLUX
from tests import tiny
from tests.policies.oracle import mag, mag_cache
from tests.policies.plain import PlainStack, run
from tests.policies.proof import PATCHES, proves
from tests.tiny import BY_NAME

STEPS = 12
RATIOS = (1.0, 1.2, 1.1, 0.95, 1.05, 1.02, 0.98, 1.0, 1.01, 0.97, 0.9, 0.8)


@proves(MagCache, "diffusers' hook")
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize(("threshold", "longest", "retention"), [(0.06, 3, 0.2), (0.3, 5, 0.0), (9.0, 2, 0.5)])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "hunyuan", "cogvideox", "ltx"])
def test_it_is_diffusers_hook_bit_for_bit(name: str, threshold: float, longest: int, retention: float) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    settings = {"threshold": threshold, "max_skip_steps": longest, "retention_ratio": retention}
    with mag_cache(pipe, STEPS, RATIOS, **settings) as said:
        expected = case.run(pipe, num_inference_steps=STEPS)
    with bwcache.attach(pipe, MagCache(RATIOS, threshold, longest, retention)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == said
    assert said.count("reuse") >= 2
    assert torch.equal(made, expected)


def test_samples_of_a_batch_are_what_they_are_alone() -> None:
    case = BY_NAME["wan"]
    policy = MagCache(RATIOS, 0.3)
    call = {"num_inference_steps": STEPS, "num_videos_per_prompt": 2}
    with mag_cache(pipe := case.build(), STEPS, RATIOS, threshold=0.3) as said:
        expected = case.run(pipe, **call)
    with bwcache.attach(pipe := case.build(), policy) as session:
        made = case.run(pipe, **call)
    assert [event.action for event in session.trace.events if event.sample == 0] == said
    assert {event.sample for event in session.trace.events} == {0, 1}
    assert torch.equal(made, expected)


@pytest.mark.parametrize("total", [1, 2, 7, 11, 12, 13, 27, 28, 30, 49, 50, 56])
@pytest.mark.parametrize("table", [RATIOS, FLUX, (1.0,)], ids=len)
def test_a_table_is_stretched_to_the_nearest_entries(table: tuple[float, ...], total: int) -> None:
    if total == 1:
        expected = np.array(table)[-1:]
    else:  # as in the paper's own code
        scale = (len(table) - 1) / (total - 1)
        expected = np.array(table)[np.round(np.arange(total) * scale).astype(int)]
    policy = MagCache(table)
    assert [policy.ratio(i, total) for i in range(total)] == expected.tolist()
    assert expected.tolist() == pytest.approx(mag.nearest_interp(torch.tensor(table), total).tolist())


def test_the_published_table_is_diffusers() -> None:
    assert pytest.approx(mag.FLUX_MAG_RATIOS.tolist(), abs=1e-6) == FLUX


class Measured(PlainStack):
    """Computes everything, and takes note of what all blocks add."""

    def __init__(self, pipe: Any, branches: int) -> None:
        super().__init__(pipe, branches)
        self.ratios: dict[int, list[float]] = {}
        self.before: dict[int, torch.Tensor] = {}

    def computes(self) -> bool:
        return True

    def computed(self, added: torch.Tensor) -> None:
        old = self.before.get(self.branch)
        if old is not None:
            ratios = added.double().norm(dim=-1) / old.double().norm(dim=-1)
            self.ratios.setdefault(self.step, []).append(float(ratios.mean()))
        self.before[self.branch] = added.clone()


@proves(MagCache, PATCHES, "the table that is measured")
@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_its_ratios_are_those_of_the_definition(name: str) -> None:
    case = BY_NAME[name]
    other = Measured(pipe := case.build(), len(case.branches))
    plain = run(case, pipe, other)
    with bwcache.attach(pipe := case.build(), MagCache.measuring()) as session:
        assert torch.equal(case.run(pipe), plain)
    policy = MagCache.fitted(session.traces, threshold=0.2, longest=4, retention=0.1)
    assert policy.ratios[0] == 1
    assert list(policy.ratios[1:]) == pytest.approx([np.mean(other.ratios[i]) for i in range(1, 10)], rel=1e-5)
    assert (policy.threshold, policy.longest, policy.retention) == (0.2, 4, 0.1)


def seen(index: int, branch: str = "cond", total: int = 10) -> Observation:
    return Observation(Step(0, index, total, None, None, branch), "stack")


def test_a_worked_sequence() -> None:
    """Products .9, .81, .729: errors .1, .19, .271, in all .1, .29, .561."""
    policy = MagCache((1.0, *[0.9] * 9), threshold=0.3, longest=3, retention=0.2)
    state = policy.init()
    found = [policy.decide(seen(i), state) for i in range(10)]
    assert [decision.reason for decision in found[:7]] == [
        "warm-up (the first 2 steps)",
        "warm-up (the first 2 steps)",
        "little error foretold (0.1000 <= 0.3)",
        "little error foretold (0.2900 <= 0.3)",
        "errors foretold add up (0.5610 > 0.3)",
        "little error foretold (0.1000 <= 0.3)",
        "little error foretold (0.2900 <= 0.3)",
    ]
    assert found[3].value == pytest.approx(0.29)
    policy = MagCache((1.0,), threshold=0.3, longest=2, retention=0.0)
    state = policy.init()
    found = [policy.decide(seen(i), state) for i in range(1, 5)]
    assert [decision.action for decision in found] == ["reuse", "reuse", "compute", "reuse"]
    assert found[2].reason == "longest window (after 2 reused steps)"


def test_branches_count_for_themselves_and_any_computation_begins_anew() -> None:
    policy = MagCache((1.0, *[0.9] * 9), threshold=0.3)
    state = policy.init()
    policy.decide(seen(3), state)
    policy.refresh(seen(4), state)  # the engine computed this step for a reason of its own
    assert policy.decide(seen(5), state).value == pytest.approx(0.1)
    assert policy.decide(seen(5, "uncond"), state).value == pytest.approx(0.1)
    assert policy.decide(seen(6), state).value == pytest.approx(0.29)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(SettingError, match=r"0 traces of \[\] steps"):
        MagCache.fitted([])
    traces: list[Trace] = []
    for steps in (4, 5):
        with bwcache.attach(pipe := tiny.wan(), MagCache.measuring()) as session:
            tiny.WAN.run(pipe, num_inference_steps=steps)
        traces += session.traces
    with pytest.raises(SettingError, match="runs of one number of steps"):
        MagCache.fitted(traces)
    with bwcache.attach(pipe := tiny.wan(), bwcache.NeverReuse(measures=1)) as session:
        tiny.WAN.run(pipe)
    with pytest.raises(SettingError, match=r"MagCache\.measuring\(\)"):
        MagCache.fitted([session.trace])


def test_settings_that_never_reuse_keep_nothing() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, MagCache((1.0,), longest=0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [{"ratios": ()}, {"ratios": (1.0, 0.0)}, {"ratios": (1.0, math.nan)}, {"ratios": "1"}, {"threshold": -1},
     {"longest": -1}, {"retention": 1.5}],
    ids=str,
)  # fmt: skip
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        MagCache(**{"ratios": (1.0,), **bad})
