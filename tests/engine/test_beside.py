"""Branches that are made of another one and a kept difference: bit for bit what plain patches of the forward make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import BlockStack, Decision, Linear, Observation, Policy, Predictor, Site, Trace, compute, reuse
from bwcache.models import denoisers
from tests.engine.test_clean import ZOO
from tests.tiny import BY_NAME, VIDEO_TO_VIDEO, Case

STEPS = 8
REUSED = (2, 3, 5, 7)


@dataclass(frozen=True)
class FromConditional(Policy[None]):
    """Makes the unconditional branch of the conditional one, in some steps."""

    where: Literal["root", "stack"] = "root"
    predictor: Predictor = field(default_factory=bwcache.Last)
    probes: bool = False

    @property
    def feature_predictor(self) -> Predictor:
        return self.predictor

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        if self.where == "root":
            return (stack.site(stack.root, keeps="beside", beside="cond"),)
        return (stack.site(stack.blocks[0], stack.blocks[-1], keeps="beside", beside="cond", name="stack"),)

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        assert observation.step.branch == "uncond"  # of the other one nothing is asked
        return reuse("written") if observation.step.index in REUSED else compute("written")


class Plain:
    """The denoiser's forward by hand: the conditional rows alone, and for the others the difference kept last.

    Args:
        rows: how many samples come in one forward with both branches; 0: each branch has forwards of its own.
    """

    def __init__(self, module: Any, rows: int) -> None:
        self.module, self.inner, self.rows = module, module.forward, rows
        self.calls = self.ran = 0
        self.cond: Any = None
        self.kept: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.together(args, kwargs) if self.rows else self.apart(args, kwargs)

    def run(self, args: Any, kwargs: Any) -> Tensor:
        out: Tensor = self.inner(*args, **{**kwargs, "return_dict": False})[0]
        self.ran += len(out)
        return out

    def apart(self, args: Any, kwargs: Any) -> Any:
        step, branch = divmod(self.calls, 2)
        self.calls += 1
        if branch == 0:
            self.cond = self.run(args, kwargs)
            return (self.cond,)
        if step in REUSED:
            return (self.kept + self.cond,)
        out = self.run(args, kwargs)
        self.kept = out - self.cond
        return (out,)

    def together(self, args: Any, kwargs: Any) -> Any:
        step, count = self.calls, self.rows
        self.calls += 1
        if step not in REUSED:
            out = self.run(args, kwargs)
            self.kept = out[:count] - out[count:]
            return (out,)
        alone = [self.cut(each) for each in args], {name: self.cut(each) for name, each in kwargs.items()}
        cond = self.run(*alone)
        return (torch.cat([self.kept + cond, cond]),)

    def cut(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self.cut(each) for each in value)
        both = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 2 * self.rows
        return value[self.rows :] if both else value


CASES: dict[str, tuple[Case, int]] = {
    "two forwards": (BY_NAME["wan"], 0),
    "one forward": (BY_NAME["ltx"], 1),
    "one forward, epsilon": (BY_NAME["cogvideox"], 1),
    "one forward, sigmas that rise": (BY_NAME["mochi"], 1),
    "a U-Net": (ZOO["stable_diffusion"], 1),
}


def by_hand(case: Case, rows: int, **changes: Any) -> tuple[Tensor, int]:
    pipe = case.build()
    module = next(iter(denoisers(pipe).values()))
    plain = module.forward = Plain(module, rows)
    return case.run(pipe, num_inference_steps=STEPS, **changes), plain.ran


def run(case: Case, policy: Policy[Any], **changes: Any) -> tuple[Tensor, Trace, int]:
    pipe = case.build()
    ran: list[int] = []
    module = next(iter(denoisers(pipe).values()))
    inner = module.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        ran.append(len(out[0]))
        return out

    module.forward = counted
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS, **changes)
    return made, session.trace, sum(ran)


@pytest.mark.parametrize("name", CASES)
def test_it_is_brute_force_bit_for_bit(name: str) -> None:
    case, rows = CASES[name]
    expected, ran = by_hand(case, rows)
    made, trace, counted = run(case, FromConditional())
    assert [event.step for event in trace.events if event.action == "reuse"] == list(REUSED), trace.summary()
    assert {event.branch for event in trace.events if event.action == "reuse"} == {"uncond"}
    assert counted == ran  # rows of the batch that the denoiser really ran on
    assert torch.equal(made, expected)
    untouched = case.run(case.build(), num_inference_steps=STEPS)
    assert not torch.allclose(made, untouched)
    said = {event.reason for event in trace.events if event.branch == "cond"}
    assert said == {"another branch is made of this one"}


def test_two_samples_in_one_forward() -> None:
    case = BY_NAME["ltx"]
    call = {
        name: torch.cat([value, value if "mask" in name else value * 3.0])
        for name, value in case.call.items()
        if isinstance(value, Tensor)
    }
    expected, ran = by_hand(case, 2, **call)
    made, trace, counted = run(case, FromConditional(), **call)
    assert {(event.branch, event.sample) for event in trace.events} == {
        (branch, sample) for branch in ("cond", "uncond") for sample in (0, 1)
    }
    assert counted == ran
    assert torch.equal(made, expected)


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_at_the_blocks_it_is_the_same_as_on_what_they_return(name: str) -> None:
    """The blocks' output of one branch plus the difference: the projection after them runs for both."""
    case = BY_NAME[name]
    made, trace, _ = run(case, FromConditional("stack"))
    pipe = case.build()
    module, kept = pipe.transformer, dict[str, Tensor]()
    last, calls = module.transformer_blocks[-1] if name == "ltx" else module.blocks[-1], [0]
    inner = last.forward

    def patched(*args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = inner(*args, **kwargs)
        step, branch = divmod(calls[0], 1 if name == "ltx" else 2)
        calls[0] += 1
        if name == "ltx":
            uncond, cond = out.chunk(2)
            if step in REUSED:
                return torch.cat([kept["less"] + cond, cond])
            kept["less"] = uncond - cond
        elif branch == 0:
            kept["cond"] = out
        elif step in REUSED:
            return kept["less"] + kept["cond"]
        else:
            kept["less"] = out - kept["cond"]
        return out

    last.forward = patched
    expected = case.run(pipe, num_inference_steps=STEPS)
    assert len([event for event in trace.events if event.action == "reuse"]) == len(REUSED)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_the_difference_can_be_foretold() -> None:
    case = BY_NAME["wan"]
    assert not torch.equal(run(case, FromConditional())[0], run(case, FromConditional(predictor=Linear()))[0])


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize(
    ("case", "policy"),
    [
        (VIDEO_TO_VIDEO, FromConditional()),  # nobody names the branches
        (BY_NAME["wan_unguided"], FromConditional()),
        (BY_NAME["ltx"], FromConditional(probes=True)),  # the batch decides as one
    ],
    ids=["no names", "no guidance", "as one"],
)
def test_where_there_is_no_such_branch_it_is_computed(case: Case, policy: Policy[Any]) -> None:
    expected = case.run(case.build(), num_inference_steps=STEPS)
    made, trace, _ = run(case, policy)
    assert torch.equal(made, expected)
    assert {event.reason for event in trace.events} <= {
        "the branch that it is made of has not run in this step",
        "another branch is made of this one",
    }


def test_what_is_kept_was_planned() -> None:
    _, trace, _ = run(BY_NAME["wan"], FromConditional())
    assert 0 < trace.peak_bytes <= trace.planned_bytes
