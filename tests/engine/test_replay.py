"""Replaying the stack equals brute force, which stores and replays the output of every block."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn

import bwcache
from bwcache import BWCache
from bwcache.models import BlockStack, Site, denoisers
from tests.tiny import BY_NAME, VIDEO_TO_VIDEO, WAN, Case, Scripted, each_case, noise, wan_transformer


def copied(value: Any) -> Any:
    return tuple(copied(item) for item in value) if isinstance(value, tuple) else value.clone()


def blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    """The blocks in call order, found without the package under test."""
    lists = ("blocks", "transformer_blocks", "single_transformer_blocks")
    return [block for name in lists for block in getattr(denoiser, name, ())]


class BruteForce:
    """Replays each block's own stored output, by plain forward patches; told for each forward what to do."""

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        self.rows = rows  # (branch, action) of each forward, in order
        self.forwards = -1
        self.stored: dict[tuple[str, str, int], Any] = {}
        self.computed_blocks = 0

    def attach(self, undo: ExitStack, pipe: Any) -> None:
        for name, module in pipe.components.items():
            if name.startswith("transformer") and module is not None:
                self._patch(undo, module, self._counting)
                for i, block in enumerate(blocks_of(module)):
                    self._patch(undo, block, self._replaying(name, i))

    def _patch(self, undo: ExitStack, module: Any, wrap: Callable[..., Any]) -> None:
        module.forward = wrap(module.forward)
        undo.callback(delattr, module, "forward")

    def _counting(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            return forward(*args, **kwargs)

        return counted

    def _replaying(self, name: str, i: int) -> Callable[..., Any]:
        def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
            def replayed(*args: Any, **kwargs: Any) -> Any:
                branch, action = self.rows[self.forwards]
                key = (name, branch, i)
                if action == "reuse":
                    return copied(self.stored[key])
                self.computed_blocks += 1
                output = forward(*args, **kwargs)
                self.stored[key] = copied(output)
                return output

            return replayed

        return wrap


def by_brute_force(case: Case, events: list[bwcache.Event], **changes: Any) -> torch.Tensor:
    pipe = case.build()
    brute = BruteForce([(event.branch, event.action) for event in events])
    with ExitStack() as undo:
        brute.attach(undo, pipe)
        made = case.run(pipe, **changes)
    assert brute.forwards == len(events) - 1
    return made


POLICIES = {
    "paper": BWCache(threshold=10.0, reuse_interval=0.2),
    "long": BWCache(threshold=10.0, reuse_interval=4, tail_guard=0),
    "per_branch": BWCache(threshold=0.15, reuse_interval=2, decision="per_branch"),
    "exact": BWCache(threshold=10.0, sample=1),
    "scripted": Scripted(frozenset({2, 3, 6, 9})),
}


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@each_case
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_replay_equals_brute_force(case: Case, policy: bwcache.Policy) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        cached = case.run(pipe)
    events = session.trace.events
    assert any(event.action == "reuse" for event in events) or policy == POLICIES["per_branch"]
    assert torch.equal(by_brute_force(case, events), cached)


CALLS = {
    "batch_of_2": (WAN, {"num_videos_per_prompt": 2}),
    "longer_run": (WAN, {"num_inference_steps": 23}),
    "more_frames": (BY_NAME["hunyuan"], {"num_frames": 9}),
    "unnamed_branches": (VIDEO_TO_VIDEO, {}),
    "true_guidance": (
        BY_NAME["hunyuan"],
        {
            "true_cfg_scale": 3.0,
            "negative_prompt_embeds": noise(1, 8, 16, seed=5),
            "negative_pooled_prompt_embeds": noise(1, 8, seed=6),
            "negative_prompt_attention_mask": torch.ones(1, 8),
        },
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_replay_equals_brute_force_in_other_calls(call: tuple[Case, dict[str, Any]]) -> None:
    case, changes = call
    pipe = case.build()
    with bwcache.attach(pipe, BWCache(threshold=10.0, reuse_interval=2), per_sample=False) as session:
        cached = case.run(pipe, **changes)
    assert session.trace.reused > 0
    assert torch.equal(by_brute_force(case, session.trace.events, **changes), cached)


@each_case
def test_no_block_runs_in_a_reused_step(case: Case) -> None:
    pipe = case.build()
    calls = []
    with ExitStack() as undo:
        for module in denoisers(pipe).values():
            for block in blocks_of(module):
                undo.callback(block.register_forward_pre_hook(lambda *_: calls.append(1)).remove)
        with bwcache.attach(pipe, Scripted(frozenset({3, 4, 8}))) as session:
            case.run(pipe)
    computed = sum(event.action == "compute" for event in session.trace.events)
    assert computed < len(session.trace.events)
    assert len(calls) == 4 * computed


def test_a_block_that_writes_into_what_another_returned_does_not_spoil_what_is_kept() -> None:
    case = BY_NAME["wan_unguided"]
    pipe = case.build()
    entered = []

    def spoil(module: Any, args: Any) -> None:
        entered.append(args[0].clone())
        args[0].mul_(1.5)  # as Chroma's single ControlNet and ComfyUI's LTX do

    pipe.transformer.norm_out.register_forward_pre_hook(spoil)
    with bwcache.attach(pipe, Scripted(frozenset({1, 2, 3}))):
        case.run(pipe)
    assert all(torch.equal(entered[0], later) for later in entered[1:4])


def test_a_residual_is_added_to_what_enters_the_step() -> None:
    class Residual(Scripted):
        def sites(self, stack: BlockStack) -> tuple[Site, ...]:
            return (stack.whole("residual"),)

    case = BY_NAME["wan_unguided"]
    pipe = case.build()
    entered, left = [], []
    pipe.transformer.patch_embedding.register_forward_hook(
        lambda module, args, output: entered.append(output.flatten(2).transpose(1, 2))
    )
    pipe.transformer.norm_out.register_forward_pre_hook(lambda module, args: left.append(args[0].clone()))
    with bwcache.attach(pipe, Residual(frozenset({1, 2}))):
        case.run(pipe)
    for step in (1, 2):
        torch.testing.assert_close(left[step], left[0] - entered[0] + entered[step], rtol=1e-5, atol=1e-5)
        assert not torch.equal(left[step], left[0])


def test_linear_extrapolates_in_sigma_from_the_last_two_computed_steps() -> None:
    case = BY_NAME["wan_unguided"]
    pipe = case.build()
    left = []
    pipe.transformer.norm_out.register_forward_pre_hook(lambda module, args: left.append(args[0].clone()))
    with bwcache.attach(pipe, Scripted(frozenset({3, 4, 6}), bwcache.Linear())) as session:
        case.run(pipe)
    sigmas = [event.sigma for event in session.trace.events]
    for step, near, far in ((3, 2, 1), (4, 2, 1), (6, 5, 2)):
        slope = (left[near] - left[far]) / (sigmas[near] - sigmas[far])
        expected = left[near] + slope * (sigmas[step] - sigmas[near])
        torch.testing.assert_close(left[step], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("away", [1, 2])
def test_a_branch_that_stayed_away_for_a_step_is_computed_when_it_comes_back(away: int) -> None:
    """One step is enough: what is kept of it is older than what the others replay."""
    module = wan_transformer()
    with bwcache.attach(module, Scripted(frozenset(range(1, 6)))) as session, torch.no_grad():
        for i in range(7):
            for seed, branch in enumerate(("cond", "uncond")):
                if branch == "cond" or not 2 <= i < 2 + away:
                    with session.step(index=i, total=7, branch=branch):
                        module(noise(1, 4, 2, 4, 4), torch.tensor([999 - i]), noise(1, 6, 8, seed=seed))
    line = dict.fromkeys(("cond", "uncond"), "")
    for event in session.trace.events:
        line[event.branch] += "C" if event.action == "compute" else "r"
    assert line == {"cond": "CrrrrrC", "uncond": "Cr" + "C" + "r" * (3 - away) + "C"}
