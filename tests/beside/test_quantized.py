"""Weights of 8 bits: in a layer written here, and by torchao where it is installed.

torchao is in an environment of its own (`make test-torchao`): where it is installed, importing diffusers writes
warnings to stderr, and what the command line writes there is tested.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.models import resolve
from tests.beside.attached import CAREFREE, LINE, cached, expect_it_works, lines, plain, same
from tests.laws.cases import POLICIES, One
from tests.tiny import WAN, wan


class Int8Linear(nn.Module):
    """A linear layer whose weights rest as integers, with one scale for each output."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (layer.weight / scale).round().to(torch.int8))
        self.bias = layer.bias

    weight: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def by_hand(pipe: Any) -> None:
    """All linear layers inside the blocks are replaced by others."""
    for block in pipe.transformer.blocks:
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(parent, name, Int8Linear(layer))


def test_layers_that_are_replaced_by_int8_ones() -> None:
    without, made = expect_it_works(by_hand)
    assert not torch.equal(without, plain()), "nothing was rounded: the test shows nothing"
    assert not torch.equal(made, cached())
    torch.testing.assert_close(without, plain(), rtol=0.1, atol=0.1)


def by_torchao(pipe: Any) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao: make test-torchao")
    quantization.quantize_(pipe.transformer.blocks, quantization.Int8WeightOnlyConfig())


def test_torchao_int8_weights() -> None:
    without, made = expect_it_works(by_torchao)
    assert not torch.equal(without, plain()), "nothing was rounded: the test shows nothing"
    assert not torch.equal(made, cached())
    torch.testing.assert_close(without, plain(), rtol=0.1, atol=0.1)


def test_torchao_int8_weights_in_compiled_blocks() -> None:
    pipe = wan()
    by_torchao(pipe)
    torch._dynamo.reset()
    with bwcache.attach(pipe, CAREFREE) as session:
        wanted = WAN.run(pipe)
        pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
        torch.testing.assert_close(WAN.run(pipe), wanted, rtol=1e-4, atol=1e-5)
    assert lines(session) == [LINE, LINE]
    torch._dynamo.reset()


def test_torchao_int8_weights_that_are_offloaded() -> None:
    def switch_on(pipe: Any) -> None:
        by_torchao(pipe)
        pipe.enable_model_cpu_offload(device="cpu")

    offloaded, alone = expect_it_works(switch_on), expect_it_works(by_torchao)
    same(offloaded[0], alone[0])
    same(offloaded[1], alone[1])


WEIGHTS = {"by hand": by_hand, "torchao": by_torchao}
ON_WAN = [name for name, bold in POLICIES.items() if bold.on_transformers]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("policy", ON_WAN)
def test_every_policy_beside_weights_of_8_bits(policy: str, weights: str) -> None:
    """Settings that never reuse change no bit of it, bold ones reuse, twice the same, and lists of steps stay lists."""
    one = One(policy, "wan", "Last", "guided")
    float32 = one.case.build().to(torch.float32)
    pipe = one.case.build()
    WEIGHTS[weights](pipe)
    plain = one.case.run(pipe)
    assert not torch.equal(plain, one.case.run(float32)), "nothing was rounded: the test shows nothing"
    with bwcache.attach(pipe, one.never, spec=one.spec):
        same(one.case.run(pipe), plain)
    with bwcache.attach(pipe, one.bold, spec=one.spec) as session:
        made = one.case.run(pipe)
        same(one.case.run(pipe), made)
    first, second = (said(trace) for trace in session.traces)
    assert first == second
    assert ("reuse" in {action for *_, action in first}) == (policy != "NeverReuse")
    if not one.bold.taps(stack_of(pipe, one)) and not one.bold.needs_errors:
        with bwcache.attach(float32, one.bold, spec=one.spec) as session:
            one.case.run(float32)
        assert said(session.trace) == first
    same(one.case.run(pipe), plain)


def said(trace: bwcache.Trace) -> list[tuple[Any, ...]]:
    """What was decided, row by row."""
    return [(event.step, event.branch, event.site, event.action) for event in trace.events]


def stack_of(pipe: Any, one: One) -> Any:
    return resolve("transformer", pipe.transformer, one.spec)
