"""MixCache: choices and latents against a second implementation in numpy, on the forwards of denoiser and blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import MixCache, SettingError
from tests import tiny
from tests.policies.halves import halves
from tests.policies.proof import NUMPY, ROUNDED, proves
from tests.tiny import BY_NAME
from tests.zoo.unets import svd_unet

STEPS = 14
CLOSE = 2e-5
LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks")

Value = list[np.ndarray]


class Plain:
    """The method as its text has it, on a model whose branches have a forward each, the conditional one first."""

    def __init__(self, policy: MixCache, blocks: list[Any], branches: int) -> None:
        self.policy, self.blocks, self.branches, self.forwards = policy, blocks, branches, -1
        self.kept: dict[tuple[str, int], tuple[int, Value]] = {}
        self.rates: dict[str, list[float]] = {}
        self.interval, self.full, self.last = policy.interval, -1, ""
        self.cond = np.zeros(1)
        self.plan = ""
        self.plans: list[str] = []
        self.entered: dict[int, Value] = {}

    @property
    def step(self) -> int:
        return self.forwards // self.branches

    @property
    def branch(self) -> int:
        return self.forwards % self.branches

    def choose(self) -> str:
        """What is skipped in this step, or nothing."""
        said = self.policy
        if self.step < said.warmup or not self.kept:
            return ""
        if self.full == self.step - 1 and "step" in self.rates:
            change = float(np.mean(self.rates["step"]))
            self.interval = min(self.interval + 1, said.longest) if change < said.low else self.interval
            self.interval = max(self.interval - 1, min(2, self.interval)) if change > said.high else self.interval
        if self.step >= self.full + self.interval or not self.rates:
            return ""
        priorities = {
            name: float(np.mean(self.rates[name])) * impact * (said.penalty if name == self.last else 1)
            for name, impact in zip(("step", "guidance", "block"), said.impact, strict=True)
            if name in self.rates
        }
        self.last = min(priorities, key=lambda name: priorities[name])
        return self.last

    def note(self, name: str, value: Value) -> None:
        """What a granularity keeps now, and in a full step how far it has changed, per step."""
        before = self.kept.get((name, self.branch))
        if before is not None and self.plan == "":
            change = float(np.abs(value[0] - before[1][0]).sum() / np.abs(value[0]).sum())
            self.rates.setdefault(name, []).append(change / (self.step - before[0]))
        self.kept[name, self.branch] = self.step, value

    def denoiser(self, inner: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            if self.branch == 0:
                self.plan = self.choose()
                self.plans.append(self.plan)
                if self.plan == "":
                    self.full, self.rates = self.step, {}
            if self.plan == "guidance" and self.branch == 1:
                made = torch.from_numpy(self.cond + self.kept["guidance", 1][1][0])
                return (made.to(kwargs["hidden_states"].dtype),)
            out = inner(*args, **kwargs)[0]
            if self.branch == 0:
                self.cond = out.double().numpy()
            else:
                self.note("guidance", [out.double().numpy() - self.cond])
            return (out,)

        return forward

    def spans(self) -> dict[str, tuple[int, int]]:
        last = len(self.blocks) - 1
        found = {"step": (0, last)}
        if self.policy.first <= last - self.policy.last:
            found["block"] = (self.policy.first, last - self.policy.last)
        return found

    def block(self, i: int, inner: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = [args[0] if args else kwargs["hidden_states"]]
            others = [kwargs["encoder_hidden_states"]] if "encoder_hidden_states" in kwargs else list(args[1:2])
            given = [tensor.clone() for tensor in (*given, *others)]
            for first, _ in self.spans().values():
                if i == first:
                    self.entered[first] = [tensor.double().numpy() for tensor in given]
            first, last = self.spans().get(self.plan, (1, 0))
            if first <= i <= last:
                if i < last:
                    return tuple(given) if self.dual else given[0]
                added = self.kept[self.plan, self.branch][1]
                made = [torch.from_numpy(a + b).float() for a, b in zip(self.entered[first], added, strict=False)]
                made += given[len(made) :]
                self.returned(i, made)
                return tuple(made) if self.dual else made[0]
            real = inner(*args, **kwargs)
            self.dual = isinstance(real, tuple)
            self.returned(i, list(real) if self.dual else [real])
            return real

        return forward

    dual = False

    def returned(self, i: int, values: list[torch.Tensor]) -> None:
        for name, (first, last) in self.spans().items():
            if i == last and name != self.plan:
                some = values[:1] if name == "step" else values
                entered = self.entered[first]
                self.note(name, [a.double().numpy() - b for a, b in zip(some, entered, strict=False)])


SETTINGS = [
    MixCache(2, 4, 4, low=0, high=100),
    MixCache(1, 2, 5, low=0.05, high=0.1),
    MixCache(2, 3, 6, low=0.3, high=0.4, impact=(1, 0.2, 0.5), penalty=2),
    MixCache(3, 5, 5, low=0, high=100, first=0, last=2, impact=(5, 3, 1), penalty=1),
]


@proves(MixCache, NUMPY, ROUNDED)
@pytest.mark.parametrize("policy", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "hunyuan", "cogvideox", "mochi"])
def test_it_is_a_second_implementation(name: str, policy: MixCache) -> None:
    """Guided in two forwards, in none and in one, which the other one takes apart."""
    case, parted = BY_NAME[name], BY_NAME[name].branches == ("cond_uncond",)
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    pipe = case.build()
    model = pipe.transformer
    blocks = [block for part in LISTS for block in getattr(model, part, ())]
    other = Plain(policy, blocks, 2 if parted else len(case.branches))
    model.forward = halves(other.denoiser(model.forward)) if parted else other.denoiser(model.forward)
    for number, block in enumerate(blocks):
        block.forward = other.block(number, block.forward)
    with torch.no_grad():
        expected = case.run(pipe, num_inference_steps=STEPS)
    assert plans(session.trace) == other.plans
    assert any(other.plans)
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()


def plans(trace: bwcache.Trace) -> list[str]:
    """What is skipped in each step, or nothing."""
    found: dict[int, str] = {}
    names = {"root": "guidance", "stack": "step"}
    for event in trace.events:
        found.setdefault(event.step, "")
        if event.action == "reuse" and event.reason != "lies in a reused site":
            found[event.step] = names.get(event.site.partition("/")[2], "block")
    return [found[step] for step in sorted(found)]


def test_none_is_chosen_twice_in_a_row_if_that_counts_much() -> None:
    pipe = tiny.wan()
    policy = MixCache(2, 6, 6, low=0, high=100, penalty=1e6)
    with bwcache.attach(pipe, policy) as session:
        tiny.WAN.run(pipe, num_inference_steps=STEPS)
    found = plans(session.trace)
    assert len(set(found) - {""}) >= 2
    assert not any(a == b for a, b in pairwise(found) if a)


@pytest.mark.parametrize(
    ("impact", "chosen"), [((1, 9e9, 9e9), "step"), ((9e9, 1, 9e9), "guidance"), ((9e9, 9e9, 1), "block")]
)
def test_what_harms_is_not_skipped(impact: Any, chosen: str) -> None:
    pipe = tiny.wan()
    with bwcache.attach(pipe, MixCache(2, 4, 4, low=0, high=100, impact=impact, penalty=1)) as session:
        tiny.WAN.run(pipe, num_inference_steps=STEPS)
    assert set(plans(session.trace)) == {"", chosen}


def test_guidance_in_one_forward() -> None:
    """The unconditional rows of the batch are left out; the conditional ones run as ever."""
    case = BY_NAME["cogvideox"]
    pipe = case.build()
    policy = MixCache(2, 3, 3, low=0, high=100, impact=(9e9, 1, 9e9), penalty=1)
    sizes: list[int] = []
    pipe.transformer.transformer_blocks[0].register_forward_hook(lambda _m, _a, made: sizes.append(len(made[0])))
    with bwcache.attach(pipe, policy) as session:
        case.run(pipe, num_inference_steps=STEPS)
    found = plans(session.trace)
    assert [{2: "", 1: "guidance"}[size] for size in sizes] == found
    assert "guidance" in found


@pytest.mark.parametrize(("low", "high", "gaps"), [(100, 101, {3, 4, 5}), (0, 0, {2, 3})])
def test_the_interval_follows_the_change(low: float, high: float, gaps: set[int]) -> None:
    pipe = tiny.wan()
    with bwcache.attach(pipe, MixCache(2, 3, 5, low=low, high=high)) as session:
        tiny.WAN.run(pipe, num_inference_steps=20)
    full = [step for step, plan in enumerate(plans(session.trace)) if not plan]
    between = [b - a for a, b in pairwise(full) if b - a > 1]
    assert set(between) <= gaps
    assert between[-1] == (max(gaps) if low else min(gaps))


def test_an_interval_of_one_step_gets_no_longer_where_the_change_is_large() -> None:
    pipe = tiny.wan()
    policy = MixCache(2, 1, 5, low=0, high=0)
    with pytest.warns(bwcache.NeverReusedWarning), bwcache.attach(pipe, policy) as session:
        tiny.WAN.run(pipe, num_inference_steps=STEPS)
    assert not any(plans(session.trace))


def test_a_model_without_a_last_block_that_gives_a_residual() -> None:
    with pytest.raises(bwcache.AttachError, match="others return what they do not take in"):
        bwcache.attach(svd_unet(), MixCache())


@pytest.mark.parametrize(
    "bad",
    [
        {"warmup": -1},
        {"interval": 0},
        {"longest": 2},
        {"low": -1},
        {"high": 0.01},
        {"impact": (1, 2)},
        {"impact": (1, 2, 0)},
        {"penalty": 0.5},
        {"first": -1},
        {"last": 0.5},
    ],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        MixCache(**bad)


def test_each_step_in_full_never_reuses() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, MixCache(interval=1, longest=1)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0
