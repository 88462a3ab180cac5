"""Forwards that leave blocks out: a replay is of the same choice of blocks, or there is none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache import Step
from bwcache.core.trace import reuse_line
from bwcache.engine.run import Run
from bwcache.errors import BlocksChangedError, NeverReusedWarning
from bwcache.models import resolve
from tests.conformance.test_models import alike, snapshot
from tests.tiny import Scripted
from tests.zoo import sd3, wan
from tests.zoo.kinds import Model, note_calls, put_around

STEPS = 6
POLICY = Scripted(frozenset({2, 3}))
SKIPPING = next(case for case in sd3.SPECIAL if "skip_guidance_layers" in case.call)


class Brute:
    """Gives back what each block returned in the same branch at the last step that ran."""

    def __init__(self, module: nn.Module, branch_of: Callable[[dict[str, Any]], str], reused: frozenset[int]) -> None:
        self.branch, self.first, self.step = "", "", -1
        self.branch_of, self.reused = branch_of, reused
        self.kept: dict[tuple[str, int], Any] = {}
        module.register_forward_pre_hook(self.begin, with_kwargs=True)
        for i, block in enumerate(resolve("model", module).blocks):
            put_around(block, functools.partial(self.around, i))

    def begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.branch = self.branch_of(kwargs)
        self.first = self.first or self.branch
        if self.branch == self.first:
            self.step += 1

    def around(self, i: int, inner: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self.step in self.reused:
                return snapshot(self.kept[self.branch, i])
            returned = inner(*args, **kwargs)
            self.kept[self.branch, i] = snapshot(returned)
            return returned

        return called


def test_skip_layer_guidance_of_a_pipeline_is_replayed_as_brute_force_does() -> None:
    """SD3: uncond and cond in one batch, and in steps 1 to 3 a forward of cond that leaves block 1 out."""
    pipe = SKIPPING.build()
    Brute(pipe.transformer, lambda given: "skip" if given.get("skip_layers") else "all", POLICY.reused)
    expected = SKIPPING.run(pipe)

    pipe = SKIPPING.build()
    calls: list[str] = []
    for block in resolve("transformer", pipe.transformer).blocks:
        note_calls(block, calls)
    with bwcache.attach(pipe, POLICY) as session:
        made = SKIPPING.run(pipe)
    assert torch.equal(made, expected)
    assert not torch.equal(made, SKIPPING.run(SKIPPING.build()))
    events = session.trace.events
    assert [(e.step, e.action) for e in events if e.branch == "call1"] == [(1, "compute"), (2, "reuse"), (3, "reuse")]
    assert reuse_line([e for e in events if e.branch == "call0"]) == "CCrrCCCCCC"
    names = [f"transformer_blocks.{i}" for i in range(4)]
    assert calls == names * 2 + [names[0], *names[2:]] + names * 6


def test_skip_layer_guidance_is_measured_at_the_blocks_that_run() -> None:
    pipe = SKIPPING.build()
    with bwcache.attach(pipe, bwcache.NeverReuse(measures="default")) as session:
        SKIPPING.run(pipe)
    third = [event for event in session.trace.events if event.branch == "call1"]
    assert [event.step for event in third] == [1, 2, 3]
    assert third[0].distances is None
    for event in third[1:]:
        assert event.distances is not None
        assert event.indicator is not None
        assert [distance > 0 for distance in event.distances] == [True, False, True, True]


def test_wan_animate_2_leaves_a_block_out_without_the_prompt() -> None:
    model = next(model for model in wan.LATER if model.name == "WanAnimate2Transformer3DModel uncond")

    def run(module: nn.Module) -> list[list[Tensor]]:
        cond = Model(model.name, model.build, lambda share: {**model.inputs(share), "is_uncondtion": False})
        return [each.run(module, i / STEPS) for i in range(STEPS) for each in (cond, model)]

    module = model.build()
    Brute(module, lambda given: "uncond" if given["is_uncondtion"] else "cond", POLICY.reused)
    expected = run(module)
    module = model.build()
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        made = run(module)
    assert all(alike(a, b) for a, b in zip(made, expected, strict=True))
    for branch in ("call0", "call1"):
        assert reuse_line([event for event in session.trace.events if event.branch == branch]) == "CCrrCC"


# A bare model, called with a choice of blocks


def sample(module: Any, skipped: list[list[int]]) -> list[Tensor]:
    """A forward for each choice."""
    with torch.no_grad():
        return [
            module(**sd3._sd3_inputs(i / STEPS), skip_layers=choice, return_dict=False)[0]
            for i, choice in enumerate(skipped)
        ]


def test_without_its_last_block_a_model_is_never_reused_and_says_why() -> None:
    module = sd3.sd3()
    plain = sample(module, [[3]] * STEPS)
    session = bwcache.attach(module, bwcache.BWCache(threshold=10.0), steps=STEPS)
    made = sample(module, [[3]] * STEPS)
    with pytest.warns(NeverReusedWarning, match="the last block was left out"):
        session.close()
    assert all(map(torch.equal, made, plain))
    assert reuse_line(session.trace.events) == "C" * STEPS
    reasons = {event.reason for event in session.trace.events}
    assert reasons == {"the last block was left out, or blocks ran out of order"}


def test_a_step_without_its_last_block_forgets_what_was_kept() -> None:
    module, choices = sd3.sd3(), [[], [3], [], [], [], []]
    plain = sample(module, choices)
    with bwcache.attach(module, POLICY) as session, session.run(STEPS):
        made = sample(module, choices)
    assert reuse_line(session.trace.events) == "CCCrCC"
    assert session.trace.events[2].reason == "other arguments than before"
    assert [torch.equal(a, b) for a, b in zip(made, plain, strict=True)] == [True, True, True, False, True, True]


@pytest.mark.parametrize("other", [[], [2], [1, 2], [3]], ids=str)
def test_another_choice_in_a_reused_step_is_computed_where_the_arguments_tell(other: list[int]) -> None:
    module, choices = sd3.sd3(), [[1], [1], other]
    plain = sample(module, choices)
    with bwcache.attach(module, POLICY) as session, session.run(STEPS):
        made = sample(module, choices)
    assert all(map(torch.equal, made, plain))
    assert reuse_line(session.trace.events) == "CCC"


def choosing(module: Any, choices: list[list[int]]) -> list[Tensor]:
    """A forward for each choice, of which no argument tells."""
    forward = type(module).forward
    made = []
    for i, choice in enumerate(choices):

        @functools.wraps(forward)
        def chosen(self: Any, *args: Any, choice: list[int] = choice, **kwargs: Any) -> Any:
            return forward(self, *args, skip_layers=choice, **kwargs)

        type(module).forward = chosen
        try:
            with torch.no_grad():
                made.append(module(**sd3._sd3_inputs(i / STEPS), return_dict=False)[0])
        finally:
            type(module).forward = forward
    return made


@pytest.mark.parametrize("other", [[], [2], [1, 2], [3]], ids=str)
def test_another_choice_that_nothing_tells_is_refused_and_the_session_stays_usable(other: list[int]) -> None:
    module = sd3.sd3()
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        expected = choosing(module, [[1]] * STEPS)
        with pytest.raises(BlocksChangedError, match=r"in step 2 .*the same blocks"):
            choosing(module, [[1], [1], other])
        again = choosing(module, [[1]] * STEPS)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrrCC", "CC", "CCrrCC"]
    assert all(map(torch.equal, again, expected))


def test_whoever_goes_on_after_that_begins_a_run() -> None:
    module, later = sd3.sd3(), [sd3._sd3_inputs(i / STEPS) for i in (3, 4)]
    with bwcache.attach(module, Scripted(frozenset({2, 3, 4})), steps=STEPS) as session, torch.no_grad():
        with pytest.raises(BlocksChangedError):
            choosing(module, [[1], [1], []])
        for given in later:
            module(**given)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CC", "CC"]


def test_another_choice_in_a_computed_step_is_the_one_that_is_replayed() -> None:
    module, choices = sd3.sd3(), [[], [1], [1], [1], [2], []]
    brute = sd3.sd3()
    Brute(brute, lambda given: "all", POLICY.reused)
    expected = sample(brute, choices)
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        made = sample(module, choices)
    assert reuse_line(session.trace.events) == "CCrrCC"
    assert all(map(torch.equal, made, expected))
    # nothing is compared across another choice of blocks
    assert [event.indicator is None for event in session.trace.events if event.action == "compute"] == [True] * 4


def test_what_is_kept_of_a_branch_that_passes_over_other_blocks_goes_however_it_is_named() -> None:
    """The host names the branches of one batch together, and each by itself in a forward of its own."""
    run = Run(POLICY, {})
    lanes = {name: run.lane(Step(0, 0, STEPS, None, None, name), "model") for name in ("a", "b")}

    def kept_after(branch: str, skipped: list[list[int]] | None) -> str:
        for lane in lanes.values():
            lane.slot("stack")
        run.pass_over(branch, None if skipped is None else torch.tensor(skipped))
        return "".join(name for name, lane in lanes.items() if lane.slots)

    assert kept_after("a+b", [[0, 0], [0, 1]]) == "ab"
    assert kept_after("a+b", [[0, 0], [0, 1]]) == "ab"
    assert kept_after("a+b", [[0, 1], [0, 1]]) == "a"
    assert kept_after("b", [[1], [1]]) == "ab"
    assert kept_after("a", [[1], [0]]) == "b"
    assert kept_after("a+b", None) == ""
