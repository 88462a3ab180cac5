"""accelerate's offloading: of whole models, of single layers, taken off and put on again by the pipeline itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import remove_hook_from_module

import bwcache
from tests.beside.attached import CAREFREE, COMPUTED, LINE, cached, expect_it_works, lines, plain, same
from tests.tiny import BY_NAME, WAN, wan


def model_offload(pipe: Any) -> None:
    """A pipeline takes these hooks off and puts new ones on at the end of each of its calls."""
    pipe.enable_model_cpu_offload(device="cpu")


def hook_alone(pipe: Any) -> None:
    accelerate.cpu_offload_with_hook(pipe.transformer, execution_device=torch.device("cpu"))


def sequential_offload(pipe: Any) -> None:
    """Each layer's weights are on the meta device but while it runs.

    As `pipe.enable_sequential_cpu_offload` does it, which says "cpu:0": accelerate takes that for another device.
    """
    for part in (pipe.transformer, pipe.vae):
        accelerate.cpu_offload(part, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("offload", [model_offload, hook_alone, sequential_offload])
def test_offloading_changes_nothing_whenever_it_is_switched_on(offload: Callable[[Any], None]) -> None:
    without, made = expect_it_works(offload)
    same(without, plain())
    same(made, cached())


def test_the_pipeline_puts_its_hooks_on_again_after_each_call() -> None:
    pipe = wan()
    model_offload(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        hooks = []
        for _ in range(3):
            hooks.append(pipe.transformer._hf_hook)
            same(WAN.run(pipe), cached())
    assert len({id(hook) for hook in hooks}) == 3, "they were not put on again: the test shows nothing"
    assert lines(session) == [LINE] * 3
    assert [trace.steps for trace in session.traces] == [10] * 3


def test_two_experts_that_make_room_for_each_other() -> None:
    case = BY_NAME["wan_two_experts"]
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        expected, line = case.run(pipe), lines(session)
    model_offload(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        same(case.run(pipe), expected)
        same(case.run(pipe), expected)
    assert lines(session) == line * 2


@pytest.mark.parametrize("take_off", ["remove_all_hooks", "maybe_free_model_hooks", "remove_hook_from_module"])
@pytest.mark.parametrize("offload", [model_offload, hook_alone])
def test_hooks_that_are_taken_off_between_runs(offload: Callable[[Any], None], take_off: str) -> None:
    pipe = wan()
    offload(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        same(WAN.run(pipe), cached())
        if take_off == "remove_hook_from_module":
            remove_hook_from_module(pipe.transformer, recurse=True)
        else:
            getattr(pipe, take_off)()
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE, LINE]
    same(WAN.run(pipe), plain())


def test_a_call_that_breaks_off_leaves_the_hooks_in_order() -> None:
    pipe = wan()
    model_offload(pipe)

    def stop(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 3:
            raise RuntimeError("stop")
        return kwargs

    with bwcache.attach(pipe, CAREFREE) as session:
        with pytest.raises(RuntimeError, match="stop"):
            WAN.run(pipe, callback_on_step_end=stop)
        pipe.maybe_free_model_hooks()
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE[:4], LINE]
    same(WAN.run(pipe), plain())


def loads_of(pipe: Any) -> list[int]:
    """How often the weights of one layer in each block are loaded from now on."""
    counts = [0] * len(pipe.transformer.blocks)

    def counting(i: int, layer: Any) -> None:
        inner = layer._hf_hook.pre_forward

        def pre_forward(*args: Any, **kwargs: Any) -> Any:
            assert layer.weight.device.type == "meta"
            counts[i] += 1
            return inner(*args, **kwargs)

        layer._hf_hook.pre_forward = pre_forward

    for i, block in enumerate(pipe.transformer.blocks):
        counting(i, block.attn1.to_out[0])
    return counts


def test_a_skipped_block_loads_no_weights() -> None:
    pipe = wan()
    sequential_offload(pipe)
    loads = loads_of(pipe)
    with bwcache.attach(pipe, CAREFREE):
        same(WAN.run(pipe), cached())
    assert loads == [COMPUTED] * 4
    WAN.run(pipe)
    assert loads == [COMPUTED + 20] * 4
