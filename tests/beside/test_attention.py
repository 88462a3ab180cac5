"""Other ways of computing attention: backends, fused projections, processors of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from tests.beside.attached import cached, expect_it_works, plain


@pytest.fixture(autouse=True)
def _the_usual_backend_afterwards() -> Iterator[None]:
    """The choice of a backend is one for the whole process, and resetting a model's leaves it."""
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry.set_active_backend(before)


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends(backend: str) -> None:
    without, made = expect_it_works(lambda pipe: pipe.transformer.set_attention_backend(backend))
    torch.testing.assert_close(without, plain(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made, cached(), rtol=1e-4, atol=1e-5)


def test_fused_projections() -> None:
    without, made = expect_it_works(lambda pipe: pipe.transformer.fuse_qkv_projections())
    torch.testing.assert_close(without, plain(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made, cached(), rtol=1e-4, atol=1e-5)


class Louder(WanAttnProcessor):
    """Attention whose output is twice what it was."""

    def __call__(self, attn: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * super().__call__(attn, *args, **kwargs)


def test_a_processor_of_ones_own() -> None:
    without, made = expect_it_works(lambda pipe: pipe.transformer.set_attn_processor(Louder()))
    assert not torch.equal(without, plain())
    assert not torch.equal(made, cached())


def test_channels_last_and_half_precision() -> None:
    def switch_on(pipe: Any) -> None:
        pipe.transformer.to(torch.bfloat16, memory_format=torch.channels_last_3d)

    without, made = expect_it_works(switch_on)
    assert not torch.equal(without, plain())
    assert not torch.equal(made, cached())
