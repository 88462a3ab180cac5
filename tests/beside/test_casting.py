"""Layerwise casting: weights kept in 8 bits, cast up while their layer runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bwcache
from tests.beside.attached import CAREFREE, cached, expect_it_works, plain
from tests.tiny import WAN, wan


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_layerwise_casting(storage: torch.dtype) -> None:
    without, made = expect_it_works(
        lambda pipe: pipe.transformer.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    )
    assert not torch.equal(without, plain()), "nothing was cast: the test shows nothing"
    assert not torch.equal(made, cached())


def test_weights_rest_in_8_bits_in_a_session_too() -> None:
    pipe = wan()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    seen: list[torch.dtype] = []
    weight = pipe.transformer.blocks[0].attn1.to_q.weight

    def look(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(weight.dtype)
        return kwargs

    with bwcache.attach(pipe, CAREFREE):
        WAN.run(pipe, callback_on_step_end=look)
    assert seen == [torch.float8_e4m3fn] * 10
