"""Self-attention of a chunk over itself and over the kept keys and values of those before it, taken apart.

In the place of diffusers' processor for AnyFlow FAR, whose keys and values are kept unrotated in two tensors for each
block, those of distant chunks at a coarser grid. What the current chunk looks at outside of itself is a `Partial`,
which may be that of an earlier step.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bwcache.errors import AttachError, complaint
from bwcache.features.partial_attention import Partial, eviction_score, partial_attention
from bwcache.models.stack import BlockStack

PROCESSORS = ("AnyFlowCausalAttnProcessor",)
"""Processors of diffusers that read keys and values of finished chunks."""

MULTIPLE = 128
"""diffusers fills the current chunk's keys up to a multiple of this with zeros, and attends to them."""


@dataclass(frozen=True)
class Outside:
    """How attention outside of the current chunk is dealt with.

    Attributes:
        interval: it is computed in every so many steps of a chunk, and taken from the last of them in between.
        budget: so many kept keys and values are attended to, the most worthy of each head; None: all of them.
        importance: the share of importance in what they are worth.
    """

    interval: int = 1
    budget: int | None = None
    importance: float = 0.07


@dataclass
class Kept:
    """Of one attention, in one thread: attention outside, the tokens it is over, and how many steps ago it was made."""

    of: tuple[Any, ...]
    source: weakref.ref[Tensor]
    partial: Partial
    tokens: Tensor | None
    age: int = 0


class CausalAttention:
    """An attention processor; what it does not know goes to the one in whose place it stands."""

    _attention_backend = "flex"
    _parallel_config = None

    def __init__(self, inner: Any, how: Outside) -> None:
        self.inner, self.how = inner, how
        self._here = threading.local()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Any = None,
        rotary_emb: Any = None,
        kv_cache: Any = None,
        kv_cache_flag: Any = None,
    ) -> Tensor:
        """Return what attention adds, `[B, Q, C]`."""
        sizes = None if kv_cache is None else _sizes(kv_cache_flag)
        if sizes is None or sum(sizes) == 0 or attention_mask is not None or encoder_hidden_states is not None:
            self._here.kept = None
            returned: Tensor = self.inner(
                attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb, kv_cache, kv_cache_flag
            )
            return returned
        dtype, scale = hidden_states.dtype, (attn.inner_dim // attn.heads) ** -0.5
        query, key, value = (
            project(hidden_states).to(dtype).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for project in (_normed(attn.to_q, attn.norm_q), _normed(attn.to_k, attn.norm_k), attn.to_v)
        )
        query = _rotated(query, rotary_emb["query"])
        own = _rotated(key, rotary_emb["key"][..., -key.shape[2] :, :])
        outside = self._outside(query, kv_cache, sizes, rotary_emb["key"], scale)
        inside = partial_attention(query, own, value, scale, zeros=-query.shape[2] % MULTIPLE)
        made = inside.merged(outside).to(dtype).transpose(1, 2).flatten(2, 3)
        for layer in attn.to_out:
            made = layer(made)
        return made

    def _outside(
        self, query: Tensor, cache: dict[str, Tensor], sizes: tuple[int, int], rotary: Tensor, scale: float
    ) -> Partial:
        of = (sizes, query.shape, query.dtype, query.device, torch.is_grad_enabled() and query.requires_grad)
        kept: Kept | None = getattr(self._here, "kept", None)
        same = kept is not None and kept.of == of and kept.source() is cache["full_cache"]
        if same and kept is not None and kept.age + 1 < self.how.interval:
            kept.age += 1
            return kept.partial
        few, many = sizes
        stored = torch.cat((cache["compressed_cache"][:, :, :, :few], cache["full_cache"][:, :, :, :many]), 3)
        key, value = _rotated(stored[0], rotary[..., : few + many, :]), stored[1]
        tokens = kept.tokens if same and kept is not None else self._chosen(query, key, scale)
        if tokens is not None:
            key, value = (x.gather(2, tokens.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])) for x in (key, value))
        partial = partial_attention(query, key, value, scale)
        self._here.kept = Kept(of, weakref.ref(cache["full_cache"]), partial, tokens)
        return partial

    def _chosen(self, query: Tensor, key: Tensor, scale: float) -> Tensor | None:
        """The tokens that are attended to, `[B, H, budget]`, as of a chunk's first step; None: all."""
        budget = self.how.budget
        if budget is None or budget >= key.shape[2]:
            return None
        return eviction_score(query, key, scale, self.how.importance).topk(budget, dim=-1).indices


def causal_attentions(stack: BlockStack) -> tuple[nn.Module, ...]:
    """Return the self-attentions of the blocks that read keys and values of finished chunks.

    Raises:
        AttachError: there is none.
    """
    places = stack.parts("self") if "self" in stack.kinds else ()
    found = [place.module for place in places if _name(place.module) in PROCESSORS]
    if not found:
        raise AttachError(
            complaint(
                f"{stack.spec.model}, whose attention says no log-sum-exp of what lies outside of the current chunk",
                f"attention over kept keys and values ({', '.join(PROCESSORS)})",
                "choose another policy",
            )
        )
    return tuple(found)


@contextmanager
def with_outside(stack: BlockStack, how: Outside) -> Iterator[None]:
    """While it lasts, attention outside of the current chunk is dealt with like this."""
    put: list[tuple[Any, Any, Any]] = []
    try:
        for module in causal_attentions(stack):
            attention: Any = module
            before = attention.processor
            attention.set_processor(CausalAttention(before, how))
            put.append((attention, attention.processor, before))
        yield
    finally:
        for attention, mine, before in put:
            if attention.processor is mine:
                attention.set_processor(before)


def _name(module: nn.Module) -> str:
    processor = getattr(module, "processor", None)
    return type(processor.inner if isinstance(processor, CausalAttention) else processor).__name__


def _sizes(flag: Any) -> tuple[int, int] | None:
    """How many kept tokens are read, distant and near; None where keys and values are written."""
    if not flag or flag.get("is_cache_step"):
        return None
    return flag.get("num_cached_compressed_tokens", 0), flag.get("num_cached_full_tokens", 0)


def _normed(project: Any, norm: Any) -> Any:
    return project if norm is None else lambda hidden: norm(project(hidden))


def _rotated(hidden: Tensor, turns: Tensor) -> Tensor:
    """Each pair of channels turned by a complex number."""
    pairs = torch.view_as_complex(hidden.to(turns.real.dtype).unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(hidden.dtype)
