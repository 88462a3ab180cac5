"""LoRA: loaded, weighted, switched, fused and taken off before, while and between the runs of a session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig
from torch import Tensor

import bwcache
from tests.beside.attached import CAREFREE, LINE, cached, expect_it_works, lines, plain, same
from tests.tiny import WAN, noise, wan

WIDTH, RANK = 24, 2


def weights(seed: int = 0) -> dict[str, Tensor]:
    """A LoRA of all attention projections to queries and values, as a file would hold it."""
    found = {}
    for block in range(4):
        for layer in ("attn1.to_q", "attn1.to_v", "attn2.to_q"):
            name = f"transformer.blocks.{block}.{layer}"
            seed += 1
            found[f"{name}.lora_A.weight"] = noise(RANK, WIDTH, seed=100 + seed)
            found[f"{name}.lora_B.weight"] = noise(WIDTH, RANK, seed=200 + seed)
    return found


def load(pipe: Any) -> None:
    pipe.load_lora_weights(weights(), adapter_name="style")


@functools.cache
def loaded() -> tuple[Tensor, Tensor]:
    """The latents with the LoRA alone, without and with a session."""
    return expect_it_works(load)


def load_lightly(pipe: Any) -> None:
    load(pipe)
    pipe.set_adapters(["style"], [0.25])


def load_two(pipe: Any) -> None:
    load(pipe)
    pipe.load_lora_weights(weights(seed=50), adapter_name="other")
    pipe.set_adapters(["style", "other"], [0.5, 0.5])


def load_and_fuse(pipe: Any) -> None:
    load(pipe)
    pipe.fuse_lora(components=["transformer"])


def fuse_and_drop(pipe: Any) -> None:
    load_and_fuse(pipe)
    pipe.unload_lora_weights()


def add_by_peft(pipe: Any) -> None:
    """As for training: its weights would record gradients."""
    torch.manual_seed(0)
    pipe.transformer.add_adapter(LoraConfig(r=RANK, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    for name, weight in pipe.transformer.named_parameters():
        if "lora_B" in name:
            weight.data = noise(*weight.shape, seed=4)
    assert any(weight.requires_grad for weight in pipe.transformer.parameters())


WAYS = [load, load_lightly, load_two, load_and_fuse, fuse_and_drop, add_by_peft]


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # two LoRAs: what `load_two` is for
@pytest.mark.parametrize("switch_on", WAYS)
def test_a_lora_is_used_whenever_it_is_loaded(switch_on: Callable[[Any], None]) -> None:
    without, made = expect_it_works(switch_on)
    assert not torch.allclose(without, plain(), atol=1e-3), "the LoRA did nothing: the test shows nothing"
    assert not torch.allclose(made, cached(), atol=1e-3)


@pytest.mark.parametrize("take_off", ["unload_lora_weights", "disable_lora", "delete_adapters"])
def test_a_lora_that_goes_between_runs(take_off: str) -> None:
    pipe = wan()
    load(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        assert not torch.allclose(WAN.run(pipe), cached(), atol=1e-3)
        getattr(pipe, take_off)(*(["style"] if take_off == "delete_adapters" else []))
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE, LINE]
    same(WAN.run(pipe), plain())


def test_a_lora_that_goes_after_the_session() -> None:
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE):
        load(pipe)
        WAN.run(pipe)
    pipe.unload_lora_weights()
    same(WAN.run(pipe), plain())


def test_the_weight_of_a_lora_is_taken_from_each_call() -> None:
    """`attention_kwargs={"scale": …}` is set and taken back by a decorator around the denoiser's forward."""
    pipe = wan()
    load(pipe)
    half = WAN.run(pipe, attention_kwargs={"scale": 0.5})
    with bwcache.attach(pipe, bwcache.BWCache(threshold=0)):
        same(WAN.run(pipe, attention_kwargs={"scale": 0.5}), half)
    with bwcache.attach(pipe, CAREFREE) as session:
        whole, lighter = WAN.run(pipe), WAN.run(pipe, attention_kwargs={"scale": 0.5})
        assert not torch.equal(whole, lighter)
        same(WAN.run(pipe), whole)
    assert lines(session) == [LINE] * 3


def test_a_lora_in_an_offloaded_pipeline() -> None:
    """diffusers takes the hooks off while it loads, and puts them on again."""

    def switch_on(pipe: Any) -> None:
        # putting the hooks on again, it names no device and would look for an accelerator
        pipe.enable_model_cpu_offload = functools.partial(pipe.enable_model_cpu_offload, device="cpu")
        pipe.enable_model_cpu_offload()
        load(pipe)
        assert hasattr(pipe.transformer, "_hf_hook")

    without, made = expect_it_works(switch_on)
    alone = loaded()
    same(without, alone[0])
    same(made, alone[1])


def test_a_lora_in_groups_that_are_offloaded() -> None:
    def switch_on(pipe: Any) -> None:
        cpu = torch.device("cpu")
        apply_group_offloading(pipe.transformer, cpu, cpu, offload_type="leaf_level")
        load(pipe)

    without, made = expect_it_works(switch_on)
    alone = loaded()
    same(without, alone[0])
    same(made, alone[1])


def test_a_lora_with_compiled_blocks() -> None:
    torch._dynamo.reset()
    pipe = wan()
    load(pipe)
    with bwcache.attach(pipe, CAREFREE):
        wanted = WAN.run(pipe)
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        WAN.run(pipe)
        load(pipe)
        pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
        torch.testing.assert_close(WAN.run(pipe), wanted, rtol=1e-4, atol=1e-5)
    assert lines(session) == [LINE, LINE]
    torch._dynamo.reset()
