"""Forwards that fill a cache of the model's own: their blocks always run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.models import resolve
from tests.newer import (
    GlmImageKVCache,
    QwenImage21KVCache,
    WanAnimate2KVCache,
)
from tests.tiny import Scripted
from tests.zoo import cogview, flux, qwen, wan
from tests.zoo.kinds import Model, noise, note_calls, tensors

STEPS = 6
POLICY = Scripted(frozenset({2, 3, 4}))


@dataclass
class Filled:
    """A forward's arguments and what it leaves in the cache."""

    given: dict[str, Any]
    left: Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Case:
    """A model, its steps, and a forward beside them, which `sign` tells."""

    model: Model
    sign: str
    fill: Callable[[Any], Filled]
    name: str = field(default="")


def of(models: tuple[Model, ...], name: str) -> Model:
    return next(model for model in models if model.name == name)


def written_by_glm(module: Any) -> Filled:
    """Of a given image, at the time 0 and without text."""
    cache = GlmImageKVCache(3)
    cache.set_mode("write")
    given = {
        **cogview._glm_inputs(0.0),
        "hidden_states": noise(1, 4, 8, 8, seed=7),
        "encoder_hidden_states": torch.zeros(1, 0, 8),
        "timestep": torch.zeros(1),
        "kv_caches": cache,
    }
    return Filled(given, lambda: tensors([[layer.k_caches, layer.v_caches] for layer in cache.caches]))


def extracted_by_animate(module: Any) -> Filled:
    """Of one frame of the driving video, at the time of the first step."""
    cache = WanAnimate2KVCache(4)
    given = {
        **wan._animate2_inputs(0.0),
        "hidden_states": [noise(4, 1, 4, 4, seed=7)],
        "condition_latents": [noise(4, 1, 4, 4, seed=8)],
        "kv_cache": cache,
        "kv_cache_mode": "extract",
        "seq_len": 4,
        "offset_grid_sizes": torch.tensor([[1, 2, 2]]),
    }
    return Filled(given, lambda: tensors([layer.get() for layer in cache.layer_caches]))


def cached_by_far(module: Any) -> Filled:
    """Of the first chunk, one frame, at the time 0."""
    sizes = {"full_cache": 3 * 2 * 4, "compressed_cache": 2}
    cache = {i: {k: torch.zeros(2, 2, 2, n, 24) for k, n in sizes.items()} for i in range(4)}
    given = {
        **wan._far_inputs(0.0),
        "hidden_states": noise(1, 1, 4, 4, 4, seed=7).repeat(2, 1, 1, 1, 1),
        "timestep": torch.zeros(2, 1),
        "r_timestep": torch.zeros(2, 1),
        "chunk_partition": [1],
        "kv_cache": cache,
        "kv_cache_flag": {"num_cached_chunks": 0, "is_cache_step": True},
        "attention_mask": module.build_attention_mask(
            chunk_partition=[1], height=4, width=4, device=torch.device("cpu"), mode="cache"
        ),
    }
    return Filled(given, lambda: tensors(cache))


CASES = (
    Case(of(cogview.MODELS, "GlmImageTransformer2DModel edit"), "kv_caches.caches.0.mode=write", written_by_glm),
    Case(of(wan.MODELS, "WanAnimate2Transformer3DModel"), "kv_cache_mode=extract", extracted_by_animate),
    Case(of(wan.MODELS, "AnyFlowFARTransformer3DModel"), "kv_cache_flag.is_cache_step", cached_by_far),
)

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.model.name.split(" ")[0])


def fill(case: Case, module: Any) -> tuple[list[Tensor], list[Tensor]]:
    """What a filling forward returns, and what it leaves."""
    filled = case.fill(module)
    with torch.no_grad():
        returned = tensors(module(**filled.given))
    return returned, filled.left()


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    assert a
    assert any(tensor.any() for tensor in a)
    return len(a) == len(b) and all(map(torch.equal, a, b))


@each_case
def test_it_always_runs_all_blocks_and_fills(case: Case) -> None:
    module = case.model.build()
    expected = fill(case, module)
    calls: list[str] = []
    blocks = resolve("model", module).blocks
    for block in blocks:
        note_calls(block, calls)
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        for i in range(STEPS):
            calls.clear()
            made = fill(case, module)
            assert calls == [block.name for block in blocks]
            assert all(map(equal, made, expected))
            calls.clear()
            case.model.run(module, i / STEPS)
            assert len(calls) == (0 if i in POLICY.reused else len(blocks))
    assert reuse_line(session.trace.events) == "CCrrrC"
    assert session.trace.meta["cache_fills"] == {case.sign: STEPS}


@each_case
def test_it_is_no_step_and_no_branch_and_the_run_around_it_is_as_without(case: Case) -> None:
    module = case.model.build()
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        expected = [case.model.run(module, i / STEPS) for i in range(STEPS)]
    alone = session.trace
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        fill(case, module)
        made = []
        for i in range(STEPS):
            made.append(case.model.run(module, i / STEPS))
            if i in (0, 2, 3, 5):  # after the first and the last step, and within the reused ones
                fill(case, module)
    assert all(map(equal, made, expected))
    assert session.trace.events == alone.events
    assert "cache_fills" not in alone.meta
    assert session.trace.meta["cache_fills"] == {case.sign: 5}
    assert len(session.traces) == 1


def break_off(part: nn.Module, error: type[BaseException], forward: Callable[[], Any]) -> None:
    """A forward in which a part of the model raises."""

    def fail(*_: Any) -> None:
        raise error

    hook = part.register_forward_pre_hook(fail)
    with pytest.raises(error):
        forward()
    hook.remove()


ERRORS = pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])


@each_case
@ERRORS
def test_an_error_in_it_ends_the_run_and_leaves_nothing_behind(case: Case, error: type[BaseException]) -> None:
    module = case.model.build()
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        for i in range(2):
            case.model.run(module, i / STEPS)
        break_off(resolve("model", module).blocks[1].module, error, lambda: fill(case, module))
        for i in range(STEPS):
            case.model.run(module, i / STEPS)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CC", "CCrrrC"]


@each_case
@ERRORS
def test_it_runs_all_blocks_after_a_step_that_was_broken_off(case: Case, error: type[BaseException]) -> None:
    module = case.model.build()
    expected = fill(case, module)
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        for i in range(2):
            case.model.run(module, i / STEPS)
        break_off(list(module.children())[-1], error, lambda: case.model.run(module, 2 / STEPS))  # a reused one
        assert all(map(equal, fill(case, module), expected))
        for i in range(STEPS):
            case.model.run(module, i / STEPS)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CC", "CCrrrC"]


# Qwen-Image 2.1 and Flux 2 Klein fill theirs in the first step, which is a step all the same


def test_a_step_that_fills_is_computed_whatever_the_policy_says() -> None:
    model = of(qwen.MODELS, "QwenImage21Transformer2DModel")
    module = model.build()
    cache = QwenImage21KVCache(3)
    policy = Scripted(frozenset(range(1, STEPS)))
    with bwcache.attach(module, policy) as session, session.run(STEPS), torch.no_grad():
        for i in range(STEPS):
            sign = {"kv_cache": cache, "kv_cache_mode": "extract"} if i == 2 else {}  # of the same shapes as without
            module(**model.inputs(i / STEPS), **sign)
    assert reuse_line(session.trace.events) == "CrCCrr"  # the next one has other arguments again
    assert session.trace.events[2].reason == "fills a cache of the model's own (kv_cache_mode=extract)"
    assert "cache_fills" not in session.trace.meta
    assert all(layer.get()[0].any() for layer in cache.layer_caches)


@pytest.mark.parametrize(
    "pipeline",
    [
        case
        for case in (*flux.PIPELINES, *qwen.PIPELINES)
        if case.name in ("Flux2KleinKVPipeline", "QwenImage21Pipeline")
    ],
    ids=lambda case: case.name,
)
def test_the_first_step_of_a_pipeline_fills_and_all_others_may_be_reused(pipeline: Any) -> None:
    pipe = pipeline.build()
    with bwcache.attach(pipe, Scripted(frozenset(range(20)))) as session:
        made = pipeline.run(pipe)
    assert made.isfinite().all()
    for branch in pipeline.branches:
        events = [event for event in session.trace.events if event.branch == branch]
        assert [event.step for event in events] == list(range(10))
        assert events[0].reason.startswith("fills a cache")
        # the second step has other tokens than the first: nothing that is kept fits
        assert reuse_line(events) == "CC" + "r" * 8
