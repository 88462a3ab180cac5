"""TeaCache: decision for decision and bit for bit what a second implementation does, and its fit against numpy's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import AttachError, Observation, Readings, SettingError, Step, TeaCache, Trace
from bwcache.policies.teacache import PUBLISHED
from tests import tiny
from tests.policies.plain import PlainStack, mean_change, run
from tests.policies.proof import PATCHES, proves
from tests.tiny import BY_NAME
from tests.zoo.unets import svd_unet

STEPS = 12
BENT = (3.0, -2.0, 0.8, 0.02)
"""A polynomial that bends as the published ones do."""


class Plain(PlainStack):
    """The method as the authors have it: the first block's norm is applied by hand, and no block runs on a skip."""

    def __init__(self, pipe: Any, branches: int, threshold: float, time: bool, warmup: int, tail: int) -> None:
        super().__init__(pipe, branches)
        self.threshold, self.time, self.guards = threshold, time, (warmup, STEPS - tail)
        self.change: float | None = None
        self.seen: dict[int, Tensor] = {}
        self.spent: dict[int, float] = {}

    def enters(self, given: dict[str, Any]) -> None:
        now = self._embedding if self.time else self._modulated(given)
        before, self.seen[self.branch] = self.seen.get(self.branch), now.clone()
        self.change = None if before is None else mean_change(now, before)

    def begins(self, latents: Tensor) -> None:
        """Listens to what makes the embedding of the time, once."""
        if self.forwards == 0 and not hasattr(self, "_embedding"):
            names = ("condition_embedder", "time_embedding", "time_text_embed")
            module = next(getattr(self.model, name) for name in names if hasattr(self.model, name))
            module.register_forward_hook(self._note)

    def _note(self, module: Any, args: Any, returned: Any) -> None:
        self._embedding = returned if isinstance(returned, Tensor) else returned[0]
        self._projected = returned[1] if isinstance(returned, tuple) else None

    def _modulated(self, given: dict[str, Any]) -> Tensor:
        block = self.blocks[0]
        if hasattr(self.model, "condition_embedder"):
            return self._projected  # e0 of Wan
        if hasattr(block, "norm1_context"):
            return block.norm1(given["hidden_states"], emb=given["temb"])[0]
        return block.norm1(given["hidden_states"], given["encoder_hidden_states"], given["temb"])[0]

    def computes(self) -> bool:
        spent = self.spent.pop(self.branch, 0.0)
        if self.change is None or not self.guards[0] <= self.step < self.guards[1]:
            return True
        spent += float(np.poly1d(BENT)(self.change))
        if spent >= self.threshold:
            return True
        self.spent[self.branch] = spent
        return False


@proves(TeaCache, PATCHES)
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("guards", [(1, 1), (5, 0)], ids=str)
@pytest.mark.parametrize("threshold", [0.2, 0.9])
@pytest.mark.parametrize("input", ["modulated", "time"])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "hunyuan"])
def test_it_is_the_second_implementation_bit_for_bit(
    name: str, input: Any, threshold: float, guards: tuple[int, int]
) -> None:
    case = BY_NAME[name]
    other = Plain(pipe := case.build(), len(case.branches), threshold, input == "time", *guards)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), TeaCache(threshold, BENT, input, *guards)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.line
    assert threshold < 0.9 or other.line.count("reuse") >= 2
    assert torch.equal(made, expected)


def seen(index: int, change: float | None, branch: str = "cond") -> Observation:
    readings = Readings((change or 0.0,), (0.0 if change is None else 1.0,))
    return Observation(Step(0, index, 10, None, None, branch), "stack", look=lambda: readings)


def test_a_worked_sequence() -> None:
    policy = TeaCache(threshold=1.0, coefficients=(2.0, 0.0, -0.1))  # f(.5) = .4, f(.3) = .08, f(0.1) = -.08
    state = policy.init()
    changes = [None, 0.5, 0.5, 0.5, 0.3, 0.1, 0.5, 0.5, 0.5, 0.5]
    found = [policy.decide(seen(i, change), state) for i, change in enumerate(changes)]
    assert [decision.reason for decision in found] == [
        "warm-up (the first 1 steps)",
        "within the budget (0.4000 < 1)",
        "within the budget (0.8000 < 1)",
        "budget spent (1.2000 >= 1)",
        "within the budget (0.0800 < 1)",
        "within the budget (-0.0000 < 1)",
        "within the budget (0.4000 < 1)",
        "within the budget (0.8000 < 1)",
        "budget spent (1.2000 >= 1)",
        "tail (the last 1 steps)",
    ]
    assert found[2].value == pytest.approx(0.8)


def test_branches_have_sums_of_their_own_and_any_computation_begins_them_anew() -> None:
    policy = TeaCache(threshold=1.0)
    state = policy.init()
    assert policy.decide(seen(2, 0.7), state).value == 0.7
    assert policy.decide(seen(2, 0.1, "uncond"), state).value == 0.1
    policy.refresh(seen(3, None), state)  # the engine computed this step for a reason of its own
    assert policy.decide(seen(4, 0.2), state).value == 0.2
    assert policy.decide(seen(4, 0.2, "uncond"), state).value == pytest.approx(0.3)


@pytest.mark.parametrize("change", [None, math.nan, math.inf])
def test_doubt_computes_and_starts_from_0(change: float | None) -> None:
    policy = TeaCache(threshold=1.0)
    state = policy.init()
    policy.decide(seen(2, 0.7), state)
    assert not policy.decide(seen(3, change), state).reuses
    assert policy.decide(seen(4, 0.5), state).value == 0.5


def test_a_sum_as_large_as_the_threshold_is_computed() -> None:
    assert not TeaCache(threshold=0.5).decide(seen(2, 0.5), {}).reuses
    assert TeaCache(threshold=0.5001).decide(seen(2, 0.5), {}).reuses


@pytest.fixture(scope="module", params=["wan", "cogvideox"])
def measured(request: pytest.FixtureRequest) -> tuple[str, list[Trace]]:
    case = BY_NAME[request.param]
    with bwcache.attach(pipe := case.build(), TeaCache.measuring()) as session:
        for seed in range(3):
            assert torch.equal(case.run(pipe, seed), case.run(case.build(), seed))
    return request.param, session.traces


def pairs(name: str) -> list[tuple[float, float]]:
    """The changes of F and of the output from step to step, by hooks, for the same seeds."""
    found = []
    for seed in range(3):
        case = BY_NAME[name]
        other = Plain(pipe := case.build(), len(case.branches), math.inf, False, STEPS, 0)
        outputs: list[Tensor] = []
        pipe.transformer.register_forward_hook(lambda *a, into=outputs: into.append(a[2][0].clone()))
        changes: list[float | None] = []
        enters = other.enters
        other.enters = lambda given, e=enters, o=other, c=changes: (e(given), c.append(o.change))  # type: ignore
        run(case, pipe, other, seed=seed)
        lag = len(case.branches)
        found += [
            (change, mean_change(new, old))
            for change, new, old in zip(changes[lag:], outputs[lag:], outputs, strict=False)
            if change is not None
        ]
    return found


@proves(
    TeaCache,
    "numpy's fit",
    "the polynomial",
    on=("wan", "cogvideox"),
)
def test_its_polynomial_is_numpys(measured: tuple[str, list[Trace]]) -> None:
    name, traces = measured
    changes, outputs = map(np.array, zip(*pairs(name), strict=True))
    policy = TeaCache.fitted(traces, threshold=0.3)
    assert policy.threshold == 0.3
    assert len(policy.coefficients) == 5
    expected = np.poly1d(np.polyfit(changes, outputs, 4))(changes)
    assert [policy.rescaled(change) for change in changes] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    line = TeaCache.fitted(traces, order=1)
    assert line.coefficients == pytest.approx(np.polyfit(changes, outputs, 1), rel=1e-3)


def test_what_cannot_be_fitted_is_refused(measured: tuple[str, list[Trace]]) -> None:
    _, traces = measured
    with pytest.raises(SettingError, match="0 traces with 0 steps to fit to"):
        TeaCache.fitted([])
    with pytest.raises(SettingError, match=r"runs under TeaCache\.measuring\(\)"):
        TeaCache.fitted(traces, order=200)
    with bwcache.attach(pipe := tiny.wan(), bwcache.NeverReuse(measures=1)) as session:
        tiny.WAN.run(pipe)
    with pytest.raises(SettingError, match=r"runs under TeaCache\.measuring\(\)"):
        TeaCache.fitted([session.trace])


def test_what_the_authors_published() -> None:
    policy = TeaCache.published("Wan2.1-T2V-1.3B", threshold=0.08)
    assert (policy.threshold, policy.warmup, policy.tail, policy.input) == (0.08, 5, 0, "modulated")
    assert policy.coefficients[0] == -52186.2437
    assert TeaCache.published("CogVideoX-5b").input == "time"
    assert TeaCache.published("FLUX.1-dev").threshold == 0.25
    assert TeaCache.published("FLUX.1-dev 2x").threshold == 0.6
    assert all(len(each.settings["coefficients"]) == 5 for each in PUBLISHED.values())
    with pytest.raises(SettingError, match="nothing published of TeaCache for 'wan'; expected one of Open-Sora-1"):
        TeaCache.published("wan")


@pytest.mark.parametrize("input", ["modulated", "time"])
@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_what_it_looks_at_is_in_the_plan_of_the_memory(name: str, input: Any) -> None:
    """A run has room in as many bytes as it holds, and is refused with one less."""
    case, policy = BY_NAME[name], TeaCache(0.9, input=input)
    with bwcache.attach(pipe := case.build(), policy) as session:
        case.run(pipe)
    held = session.trace.peak_bytes
    with bwcache.attach(pipe, policy, max_memory=held) as session:
        case.run(pipe)
    assert session.trace.reused > 0
    with bwcache.attach(pipe, policy, max_memory=held - 1), pytest.raises(bwcache.OverBudgetError):
        case.run(pipe)


def test_a_threshold_of_0_never_reuses_and_measures_nothing() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, TeaCache(threshold=0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [{"threshold": -1}, {"coefficients": ()}, {"coefficients": (1, math.nan)}, {"input": "latents"}, {"warmup": -1},
     {"tail": 0.5}],
    ids=str,
)  # fmt: skip
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        TeaCache(**bad)


def test_models_that_it_does_not_fit() -> None:
    model = tiny.cogvideox().transformer
    del model.transformer_blocks[1:]
    with pytest.raises(AttachError, match="one block in CogVideoXTransformer3DModel, which must run in every step"):
        bwcache.attach(model, TeaCache())
    with pytest.raises(SettingError, match="expected one of: time; name one of these"):
        bwcache.attach(svd_unet(), TeaCache())
    with pytest.raises(AttachError, match="others return what they do not take in"):
        bwcache.attach(svd_unet(), TeaCache(input="time"))
