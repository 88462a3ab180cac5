"""FlashBlock (2602.05305) written twice, with FlowCache's (2602.10825) choice of tokens: a model's attention in numpy.

Each chunk's attention to finished ones is made in its first step and in every so many later ones, and laid together
with its attention to itself by their log-sum-exps. Behind its own keys the denoiser attends to zeros, up to a multiple
of 128.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import FlashBlock
from tests.newer import AnyFlowFARPipeline, AnyFlowFARTransformer3DModel, FlowMapEulerDiscreteScheduler
from tests.policies.proof import ANOTHER, NONE, proves
from tests.policies.references.opened import close
from tests.policies.references.toy import Array
from tests.tiny import wan_vae
from tests.zoo.wan import BLIND, wan_call, wan_like

STEPS = 4
NEIGHBOURS = 7
Partial = tuple[Array, Array]


def array(tensor: Tensor) -> Any:
    return tensor.detach().numpy().astype(complex if tensor.is_complex() else float)


def projected(layer: Any, given: Array) -> Array:
    made: Array = given @ array(layer.weight).T + array(layer.bias)
    return made


def normed(norm: Any, given: Array) -> Array:
    made: Array = given / np.sqrt((given**2).mean(-1, keepdims=True) + norm.eps) * array(norm.weight)
    return made


def rotated(given: Array, turns: Any) -> Array:
    pairs = (given[..., ::2] + 1j * given[..., 1::2]) * turns
    made: Array = np.stack((pairs.real, pairs.imag), axis=-1).reshape(given.shape)
    return made


def softmax(scores: Array) -> Array:
    made: Array = np.exp(scores - scores.max(-1, keepdims=True))
    return made / made.sum(-1, keepdims=True)


def partial(query: Array, key: Array, value: Array) -> Partial:
    """Attention over some keys, and the log-sum-exp of its scores."""
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    return softmax(scores) @ value, np.log(np.exp(scores).sum(-1, keepdims=True))


def merged(outside: Partial, inside: Partial) -> Array:
    most = np.maximum(outside[1], inside[1])
    weights = [np.exp(part[1] - most) for part in (outside, inside)]
    made: Array = (weights[0] * outside[0] + weights[1] * inside[0]) / (weights[0] + weights[1])
    return made


def worth(query: Array, key: Array, importance: float) -> Array:
    """Of each key `[B, H, K]`: what looks at it or at a neighbour, less how like the others it is."""
    looked = softmax(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])).mean(-2)
    reach = NEIGHBOURS // 2
    count = key.shape[-2]
    most = [looked[..., max(0, i - reach) : i + reach + 1].max(-1) for i in range(count)]
    unit = key / np.linalg.norm(key, axis=-1, keepdims=True)
    cosines = unit @ unit.swapaxes(-1, -2) * (1 - np.eye(count))
    made: Array = importance * np.stack(most, -1) - (1 - importance) * softmax(cosines.mean(-1))
    return made


@dataclass
class Reference:
    """The attention of one block. `steps`: of the chunk; `chosen`: kept keys, by head."""

    attn: Any
    interval: int
    budget: int | None = None
    importance: float = 0.07
    chunk: int = -1
    steps: int = 0
    made: int = 0
    kept: Partial | None = None
    chosen: Any = None

    def __call__(self, given: Array, turns: Any, cache: Any, flag: dict[str, Any]) -> Array:
        if flag["num_cached_chunks"] != self.chunk:
            self.chunk, self.steps, self.chosen = flag["num_cached_chunks"], 0, None
        query, key, value = self._own(given)
        sizes = flag["num_cached_compressed_tokens"], flag["num_cached_full_tokens"]
        parts = [
            cache[name][..., :size, :] for name, size in zip(("compressed_cache", "full_cache"), sizes, strict=True)
        ]
        keys, values = (np.concatenate([array(part[i]) for part in parts], axis=-2) for i in (0, 1))
        finished = keys.shape[-2]
        key = rotated(np.concatenate((keys, key), axis=-2), array(turns["key"]))
        query = rotated(query, array(turns["query"]))
        if self.steps % self.interval == 0:
            self.kept = self._outside(query, key[..., :finished, :], values)
            self.made += 1
        self.steps += 1
        zeros = np.zeros((*value.shape[:-2], -value.shape[-2] % 128, value.shape[-1]))
        inside = [np.concatenate((own, zeros), axis=-2) for own in (key[..., finished:, :], value)]
        assert self.kept is not None
        made = merged(self.kept, partial(query, *inside))
        return projected(self.attn.to_out[0], made.swapaxes(1, 2).reshape(given.shape))

    def _own(self, given: Array) -> list[Array]:
        query = normed(self.attn.norm_q, projected(self.attn.to_q, given))
        key = normed(self.attn.norm_k, projected(self.attn.to_k, given))
        value = projected(self.attn.to_v, given)
        shape = *given.shape[:2], self.attn.heads, -1
        return [each.reshape(shape).swapaxes(1, 2) for each in (query, key, value)]

    def _outside(self, query: Array, key: Array, value: Array) -> Partial:
        if self.budget is not None and self.budget < key.shape[-2]:
            if self.chosen is None:
                order = np.argsort(-worth(query, key, self.importance), axis=-1, kind="stable")
                self.chosen = order[..., : self.budget, None]
            key, value = (np.take_along_axis(each, self.chosen, axis=-2) for each in (key, value))
        return partial(query, key, value)


@contextmanager
def at_work(model: Any, references: list[Reference]) -> Iterator[None]:
    """References answer in the place of the blocks' attentions, but where keys are written or none are kept yet."""
    for block, reference in zip(model.blocks, references, strict=True):
        block.attn1.forward = answering(block.attn1.forward, reference)
    try:
        yield
    finally:
        for block in model.blocks:
            del block.attn1.forward


def answering(inner: Any, reference: Reference) -> Any:
    def forward(hidden_states: Tensor, **given: Any) -> Tensor:
        flag = given["kv_cache_flag"]
        kept = 0 if flag["is_cache_step"] else flag["num_cached_compressed_tokens"] + flag["num_cached_full_tokens"]
        if kept == 0:
            made: Tensor = inner(hidden_states, **given)
            return made
        answer = reference(array(hidden_states), given["rotary_emb"], given["kv_cache"], flag)
        return torch.from_numpy(answer).float()

    return forward


def pipeline(near: int) -> Any:
    """Three chunks; `near`: so many of the last ones, the current one among them, are kept at the full grid."""
    config = {"attention_head_dim": 24, "chunk_partition": (1, 2, 2), "full_chunk_limit": near, "num_layers": 2}
    transformer = wan_like(AnyFlowFARTransformer3DModel, **config)
    scheduler = FlowMapEulerDiscreteScheduler(shift=5.0)
    made = AnyFlowFARPipeline(**BLIND, vae=wan_vae(), scheduler=scheduler, transformer=transformer)
    made.set_progress_bar_config(disable=True)
    return made


def latents_of(pipe: Any) -> Tensor:
    call = {**wan_call(), "num_frames": 17, "num_inference_steps": STEPS, "output_type": "latent"}
    latents: Tensor = pipe(**call, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    return latents


@cache
def uncached(near: int) -> Tensor:
    return latents_of(pipeline(near))


SETTINGS: dict[str, dict[str, Any]] = {
    "each step": {"interval": 1},
    "every third": {"interval": 3},
    "few tokens": {"interval": 1, "budget": 3},
    "few tokens, looked at": {"interval": 2, "budget": 3, "importance": 0.98},
}


@proves(FlashBlock, ANOTHER, "latents up to rounding", on={"AnyFlowFARTransformer3DModel": (NONE,)})
@pytest.mark.parametrize(("setting", "near"), [*((setting, 2) for setting in SETTINGS), ("few tokens", 3)])
def test_policy_and_reference_make_the_same(setting: str, near: int) -> None:
    settings, pipe = SETTINGS[setting], pipeline(near)
    references = [Reference(block.attn1, **settings) for block in pipe.transformer.blocks]
    with at_work(pipe.transformer, references):
        expected = latents_of(pipe)
    assert {reference.made for reference in references} == {2 * -(-STEPS // settings["interval"])}
    with bwcache.attach(pipe := pipeline(near), FlashBlock(**settings)):
        made = latents_of(pipe)
    assert close(made, expected, 2e-6)
    reused = settings["interval"] > 1 or "budget" in settings
    assert close(uncached(near), expected, 2e-6) != reused
