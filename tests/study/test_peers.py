"""Other libraries' caches as methods: really attached, guarded as told, and gone afterwards without a trace."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from bwcache import AttachError, SettingError
from bwcache.models import denoisers, resolve
from bwcache.study.blocks import BlockWork
from bwcache.study.peers import (
    DBCache,
    DBCacheTaylorSeer,
    FasterCache,
    FirstBlockCache,
    Guards,
    MagCache,
    Peer,
    PyramidAttentionBroadcast,
    SeaCache,
    TaylorSeer,
    TaylorSeerLite,
)
from bwcache.study.peers.hooked import found_in_diffusers, hooks_of, states_of
from bwcache.study.peers.kept_bytes import tensor_bytes
from tests import tiny

STEPS = 10
GROWTH = (1.0,) * STEPS

BOLD: dict[str, Callable[[Guards], Peer]] = {
    "first-block": lambda guards: FirstBlockCache(STEPS, guards, 50.0),
    "magcache": lambda guards: MagCache(STEPS, guards, 50.0, 4, GROWTH),
    "taylorseer": lambda guards: TaylorSeer(STEPS, guards, 4),
    "taylorseer-lite": lambda guards: TaylorSeerLite(STEPS, guards, 4),
    "seacache": lambda guards: SeaCache(STEPS, guards, 50.0, 4),
    "pab": lambda guards: PyramidAttentionBroadcast(STEPS, guards, 3, 6),
    "fastercache": lambda guards: FasterCache(STEPS, guards, 3),
    "dbcache": lambda guards: DBCache(STEPS, guards, 50.0),
    "dbcache-taylorseer": lambda guards: DBCacheTaylorSeer(STEPS, guards, 50.0),
}
each_peer = pytest.mark.parametrize("name", BOLD)


@pytest.fixture(autouse=True)
def _only_with_its_library(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec and "dbcache" in str(callspec.params.get("name")) and importlib.util.find_spec("cache_dit") is None:
        pytest.skip("cache-dit is not installed")


@pytest.fixture(scope="module")
def plain() -> tuple[Any, torch.Tensor, BlockWork, int]:
    """A tiny pipeline, its uncached latents, and the operations of its blocks."""
    pipe = tiny.wan()
    work = BlockWork.of(pipe, lambda: tiny.WAN.run(pipe, num_inference_steps=1))
    with work.counted() as done:
        latents = tiny.WAN.run(pipe)
    return pipe, latents, work, done()


def standing(pipe: Any) -> list[Any]:
    """All that a cache could leave behind on a pipeline: attributes, children in order, weights, the class."""
    found: list[Any] = [dict(vars(type(pipe))), sorted(vars(pipe))]
    for module in denoisers(pipe).values():
        found.append(list(module.state_dict()))
        for part in module.modules():
            found += [{name: id(value) for name, value in vars(part).items()}, list(part._modules)]
            found.append([len(hooks) for hooks in (part._forward_hooks, part._forward_pre_hooks)])
    return found


@each_peer
def test_it_is_attached_and_gone_afterwards(name: str, plain: Any) -> None:
    pipe, latents, work, full = plain
    before = standing(pipe)
    with BOLD[name](Guards(2, 2)).at_work(pipe) as seen, work.counted() as done:
        made = tiny.WAN.run(pipe)
    assert standing(pipe) == before
    assert 0.2 < done() / full < 0.99
    assert not torch.equal(made, latents)
    assert seen.kept_bytes is not None
    assert seen.kept_bytes > 0
    assert torch.equal(tiny.WAN.run(pipe), latents)


@each_peer
def test_nothing_of_one_run_is_left_in_the_next(name: str, plain: Any) -> None:
    pipe = plain[0]
    made = []
    for _ in range(2):
        with BOLD[name](Guards(2, 2)).at_work(pipe):
            made.append(tiny.WAN.run(pipe))
    with BOLD[name](Guards(2, 2)).at_work(pipe):
        tiny.WAN.run(pipe, seed=5)
        made.append(tiny.WAN.run(pipe))
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def work_by_step(pipe: Any, work: BlockWork, peer: Peer) -> list[int]:
    """Operations inside the blocks, by step."""
    found = [0] * STEPS
    forwards = 0
    with peer.at_work(pipe), work.counted() as done, ExitStack() as hooks:

        def note(*_: Any) -> None:
            nonlocal forwards
            found[forwards // 2] = done()  # two branches a step
            forwards += 1

        hooks.callback(pipe.transformer.register_forward_hook(note).remove)
        tiny.WAN.run(pipe)
    assert forwards == 2 * STEPS
    return [now - before for before, now in zip([0, *found], found, strict=False)]


@each_peer
@pytest.mark.parametrize("guards", [Guards(3, 3), Guards(4, 1), Guards(2, 4)], ids=str)
def test_guarded_steps_are_computed_and_others_are_not(name: str, guards: Guards, plain: Any) -> None:
    pipe, _, work, full = plain
    steps = work_by_step(pipe, work, BOLD[name](guards))
    whole = full // STEPS
    guarded = [*range(guards.warmup), *range(STEPS - guards.tail, STEPS)]
    assert [steps[index] for index in guarded] == [whole] * len(guarded)
    assert min(steps) < whole


@pytest.mark.parametrize("name", ["pab", "fastercache"])
def test_each_guidance_branch_has_a_state_of_its_own(name: str, plain: Any) -> None:
    pipe = plain[0]
    seen: set[tuple[str, ...]] = set()

    def note(module: Any, *call: Any) -> None:
        for _, hook in hooks_of(module):
            if hasattr(hook, "branches"):
                states = [state for state in states_of(hook) if state is not None]
                assert len({id(state) for state in states}) == len(states)
                seen.add(tuple(hook.branches._state_cache))

    with BOLD[name](Guards(2, 2)).at_work(pipe), ExitStack() as hooks:
        hooks.callback(pipe.transformer.register_forward_hook(note).remove)
        tiny.WAN.run(pipe)
    assert seen == {("cond",), ("cond", "uncond")}


def test_pab_replays_the_output_of_its_own_branch(plain: Any) -> None:
    """Against a second implementation on the first attention: what it returns in each forward, by branch and step."""
    pipe = plain[0]
    attention = pipe.transformer.blocks[1].attn1  # the first one's input is the same in both branches
    returned: list[torch.Tensor] = []
    with BOLD["pab"](Guards(1, 0)).at_work(pipe), ExitStack() as hooks:
        hooks.callback(attention.register_forward_hook(lambda *call: returned.append(call[2].clone())).remove)
        tiny.WAN.run(pipe)
    for branch in (0, 1):
        own = returned[branch::2]
        changed = [index for index in range(1, STEPS) if not torch.equal(own[index], own[index - 1])]
        assert changed == [3, 6, 9]  # every third is computed
    assert not torch.equal(returned[2], returned[3])


def test_diffusers_own_patterns_of_taylorseer_attach_to_nothing(plain: Any) -> None:
    """Why the modules are named one by one."""
    pipe, latents, _, _ = plain
    pipe.transformer.enable_cache(found_in_diffusers("TaylorSeerCacheConfig")(cache_interval=4))
    try:
        assert not [part for part, hook in hooks_of(pipe.transformer) if "TaylorSeer" in type(hook).__name__]
        assert torch.equal(tiny.WAN.run(pipe), latents)
    finally:
        pipe.transformer.disable_cache()
    named = TaylorSeer(STEPS, Guards(2, 2)).where(resolve("transformer", pipe.transformer))["cache_identifiers"]
    assert len(named) == 3 * len(pipe.transformer.blocks)  # two attentions, one feed-forward


@dataclass(frozen=True)
class Breaks(Peer):
    """Raises in the middle of a run, after it has spoiled what it could."""

    method: ClassVar[str] = "breaks"
    shown: ClassVar[tuple[str, ...]] = ()

    def attach(self, pipe: Any, stacks: Any, undo: ExitStack) -> Any:
        module = stacks["transformer"].module
        calls = 0

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 4:
                raise RuntimeError("the cache and\n  the model disagree")
            return type(module).forward(module, *args, **kwargs)

        module.forward = forward
        module.blocks[0].flag = True
        type(pipe)._spoiled = True
        return list


def test_a_peer_that_breaks_says_why_and_leaves_nothing_behind(plain: Any) -> None:
    pipe, latents, _, _ = plain
    before = standing(pipe)
    with (
        pytest.raises(
            AttachError, match=r"found RuntimeError from breaks \(warmup 2\): the cache and the model disagree; expe"
        ),
        Breaks(STEPS, Guards()).at_work(pipe),
    ):
        tiny.WAN.run(pipe)
    assert standing(pipe) == before
    assert torch.equal(tiny.WAN.run(pipe), latents)


def test_ctrl_c_is_no_failure_of_the_peer(plain: Any) -> None:
    pipe, latents, _, _ = plain
    before = standing(pipe)
    with pytest.raises(KeyboardInterrupt), BOLD["taylorseer"](Guards()).at_work(pipe):
        raise KeyboardInterrupt
    assert standing(pipe) == before
    assert torch.equal(tiny.WAN.run(pipe), latents)


def refusal(peer: Peer, pipe: Any) -> str:
    """Why a peer does not work on a pipeline."""
    with pytest.raises(AttachError) as error, peer.at_work(pipe):
        pass
    return str(error.value)


def test_what_cannot_work_is_refused_with_the_reason(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = plain[0]
    assert "found 2 ratios; expected 10" in refusal(MagCache(STEPS, Guards(), 0.1, 2, (1.0, 1.0)), pipe)
    reason = "found no calibration; expected one; do it"
    assert refusal(MagCache(STEPS, Guards(), 0.1, 2, (), reason), pipe) == reason
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'bwcache[peers]'" in refusal(BOLD["dbcache"](Guards()), pipe)
    with pytest.raises(SettingError, match="found tail -1"):
        Guards(tail=-1)
    with pytest.raises(SettingError, match="warm-up and a tail of 5 in a run of 10 steps"):
        Guards(5, 5).check(10)
    Guards(5, 4).check(10)


REFUSED = {
    ("ltx", "fastercache"): "RuntimeError from FasterCache",  # it knows no latents of three dimensions
}
TOLD_NOTHING = {(case, "seacache") for case in ("cogvideox", "ltx", "mochi", "hunyuan")}
"""Pipelines that do not say step, sigma and number of steps."""


@each_peer
@tiny.each_case
def test_on_other_models_it_saves_work_or_says_why_not(name: str, case: tiny.Case) -> None:
    pipe = case.build()
    work = BlockWork.of(pipe, lambda: case.run(pipe, num_inference_steps=2))
    with work.counted() as done:
        expected = case.run(pipe)
    full = done()
    before = standing(pipe)
    peer = BOLD[name](Guards(2, 2))
    reason = REFUSED.get((case.name, name))
    if reason is not None:
        with pytest.raises(AttachError, match=reason), peer.at_work(pipe):
            case.run(pipe)
    else:
        with peer.at_work(pipe) as seen, work.counted() as done:
            case.run(pipe)
        if (case.name, name) in TOLD_NOTHING:
            assert done() == full
            assert any("fail-open" in note for note in seen.notes)
        else:
            assert done() < 0.95 * full
    assert standing(pipe) == before
    assert torch.equal(case.run(pipe), expected)


@pytest.mark.parametrize("name", ["magcache", "fastercache"])
@pytest.mark.parametrize("guards", [Guards(2, 2), Guards(7, 1), Guards(2, 6)], ids=str)
def test_with_two_experts_guards_are_steps_of_the_run_and_each_expert_begins_by_computing(
    name: str, guards: Guards
) -> None:
    case = tiny.BY_NAME["wan_two_experts"]
    pipe = case.build()
    ran: list[tuple[str, int]] = []
    forwards = [0]
    with BOLD[name](guards).at_work(pipe), ExitStack() as hooks:
        for expert in ("transformer", "transformer_2"):
            module = getattr(pipe, expert)
            attention = module.blocks[2].attn1.to_q  # runs where this attention is computed

            def note(*_: Any, expert: str = expert) -> None:
                ran.append((expert, forwards[0] // 2))

            hooks.callback(attention.register_forward_hook(note).remove)
            hooks.callback(module.register_forward_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1)).remove)
        case.run(pipe)
    assert forwards == [2 * STEPS]
    steps = [step for _, step in ran[::2]]
    assert [step for _, step in ran[1::2]] == steps  # both branches alike
    second = next(step for expert, step in ran if expert == "transformer_2")
    assert second == next(index for index, t in enumerate(pipe.scheduler.timesteps) if t < 500)
    always = {0, second, *range(guards.warmup), *range(STEPS - guards.tail, STEPS)}
    assert always <= set(steps)
    assert len(set(steps)) < STEPS


def test_magcache_of_two_experts_skips_by_the_ratios_of_its_steps() -> None:
    """Against the paper's sum of errors by hand: only the errors of steps 7 and 9 are above the threshold."""
    case = tiny.BY_NAME["wan_two_experts"]
    pipe = case.build()
    growth = [1.0] * STEPS
    growth[7] = growth[9] = 0.5
    computed: list[int] = []
    forwards = [0]
    with MagCache(STEPS, Guards(2, 0), 0.4, 9, tuple(growth)).at_work(pipe), ExitStack() as hooks:
        for module in (pipe.transformer, pipe.transformer_2):
            layer = module.blocks[2].ffn
            hooks.callback(layer.register_forward_hook(lambda *_: computed.append(forwards[0] // 2)).remove)
            hooks.callback(module.register_forward_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1)).remove)
        case.run(pipe)
    second = next(index for index, t in enumerate(pipe.scheduler.timesteps) if t < 500)
    assert second < 7
    assert computed[::2] == computed[1::2] == [0, 1, second, 7, 9]


def test_fastercache_leaves_the_unconditional_branch_out_where_both_share_a_forward() -> None:
    case = tiny.BY_NAME["cogvideox"]
    pipe = case.build()
    sizes: list[int] = []
    with BOLD["fastercache"](Guards(2, 2)).at_work(pipe), ExitStack() as hooks:
        block = pipe.transformer.transformer_blocks[0]
        hooks.callback(
            block.register_forward_pre_hook(
                lambda module, args, kwargs: sizes.append(len(kwargs.get("hidden_states", args[0] if args else ()))),
                with_kwargs=True,
            ).remove
        )
        case.run(pipe)
    assert sizes == [2, 2, 1, 1, 1, 2, 1, 1, 2, 2]  # every fifth whole, and the guarded steps


def test_bytes_of_tensors_count_each_storage_once() -> None:
    class State:
        def __init__(self, **values: Any) -> None:
            vars(self).update(values)

    whole = torch.zeros(100)
    inner = State(view=whole[:3], again=whole)
    inner.own = inner  # type: ignore[attr-defined]
    layer = torch.nn.Linear(50, 50)
    assert tensor_bytes([State(a={"x": [inner, (whole,)]}, b=torch.zeros(2), c="text", layer=layer), None]) == 408
    assert tensor_bytes([]) == 0
