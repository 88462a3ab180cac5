"""Weights of 8 bits: in a layer written here, and by torchao where it is installed.

torchao is no requirement of the tests: where it is installed, importing diffusers writes warnings to stderr, and what
the command line writes there is tested.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from tests.beside.attached import CAREFREE, LINE, cached, expect_it_works, lines, plain, same
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
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao: pip install torchao")
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
