"""What ring attention and uneven shards need on a CPU: an attention that returns its normaliser, and padding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from diffusers.hooks import context_parallel
from diffusers.models import attention_dispatch
from torch import Tensor


def attention(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Scaled dot product attention, `[B, S, H, D]`, and the logarithm of what it divided by, `[B, S, H]`."""
    mask, dropout, causal, scale, shares_keys, returns = (*args, False)[:6]
    assert mask is None
    assert not shares_keys
    heads = (part.permute(0, 2, 1, 3) for part in (query, key, value))
    made, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads, dropout, causal, scale=scale)
    out = made.permute(0, 2, 1, 3)
    return (out, normaliser.permute(0, 2, 1)) if returns or kwargs.get("return_lse") else out


def padded_gather(tensor: Tensor, dim: int, group: Any) -> Tensor:
    """What all ranks have, one after the other: gloo gathers only what is of one size."""
    sizes: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(sizes, tensor.shape[dim], group=group)
    longest = [*tensor.shape]
    longest[dim] = max(sizes)
    own = tensor.new_zeros(longest)
    own.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    found = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(found, own, group=group)
    return torch.cat([part.narrow(dim, 0, size) for part, size in zip(found, sizes, strict=True)], dim)


@contextlib.contextmanager
def on_a_cpu() -> Iterator[None]:
    """Put both in the place of what a CPU cannot do."""
    before = attention_dispatch._native_attention_forward_op, context_parallel._all_gather_anything
    attention_dispatch._native_attention_forward_op = attention
    context_parallel._all_gather_anything = padded_gather
    try:
        yield
    finally:
        attention_dispatch._native_attention_forward_op, context_parallel._all_gather_anything = before
