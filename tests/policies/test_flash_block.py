"""FlashBlock: merged attention is full attention to float noise; on AnyFlow FAR, chunk after chunk; numpy as judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import AttachError, FlashBlock, SettingError
from bwcache.features import partial_attention as partials
from bwcache.features.partial_attention import eviction_score, partial_attention
from bwcache.models.causal_attention import CausalAttention
from tests import tiny
from tests.policies.proof import NONE, NUMPY, proves
from tests.tiny import noise
from tests.zoo import wan

STEPS = 6
CLOSE = 2e-5
CHUNKS = (1, 2, 2)
CASE = next(one for one in wan.SPECIAL if one.name == "AnyFlowFARPipeline chunks")


def parts(keys: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, `[2, 3, Q or K, 8]`."""
    return noise(2, 3, 5, 8), 3 * noise(2, 3, keys, 8, seed=1), noise(2, 3, keys, 8, seed=2)


@proves(FlashBlock, "torch's full attention", "attention up to rounding", on={"tensors": ()})
@pytest.mark.parametrize("at", [1, 4, 10])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_what_is_merged_is_full_attention(at: int, shift: float) -> None:
    query, key, value = parts()
    key = key + shift * torch.ones(8)[None, None, None] * (torch.arange(11) < at)[:, None]
    one = partial_attention(query, key[:, :, :at], value[:, :, :at], 0.3)
    other = partial_attention(query, key[:, :, at:], value[:, :, at:], 0.3)
    full = torch.nn.functional.scaled_dot_product_attention(query.double(), key.double(), value.double(), scale=0.3)
    noise_of_scores = 1e-5 + 4 * torch.finfo(torch.float32).eps * shift
    assert (one.merged(other) - full).abs().max() < noise_of_scores
    assert (other.merged(one) - full).abs().max() < noise_of_scores


def test_the_weight_is_the_log_sum_exp_and_zeros_count() -> None:
    query, key, value = parts()
    scores = np.einsum("bhqd,bhkd->bhqk", query.numpy(), key.numpy()) * 0.3
    found = partial_attention(query, key, value, 0.3, zeros=7)
    np.testing.assert_allclose(found.weight.numpy(), np.log(np.exp(scores).sum(-1) + 7), rtol=1e-5, atol=1e-5)
    padded, filling = (torch.cat((x, torch.zeros(2, 3, 7, 8)), 2) for x in (key, value))
    full = torch.nn.functional.scaled_dot_product_attention(query, padded, filling, scale=0.3)
    torch.testing.assert_close(found.output, full, rtol=1e-5, atol=1e-5)


def test_queries_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, score = partial_attention(*parts(), 0.3), eviction_score(*parts()[:2], 0.3)
    monkeypatch.setattr(partials, "QUERIES", 2)
    some = partial_attention(*parts(), 0.3)
    torch.testing.assert_close(some.output, whole.output)
    torch.testing.assert_close(some.weight, whole.weight)
    torch.testing.assert_close(eviction_score(*parts()[:2], 0.3), score)


@pytest.mark.parametrize("importance", [0.0, 0.07, 1.0])
def test_the_score_of_a_token_is_a_second_implementation(importance: float) -> None:
    query, key, _ = (x.double().numpy() for x in parts(20))
    expected = np.empty((2, 3, 20))
    for b in range(2):
        for h in range(3):
            scores = np.exp(query[b, h] @ key[b, h].T * 0.3)
            looked = (scores / scores.sum(1, keepdims=True)).mean(0)
            pooled = [looked[max(i - 3, 0) : i + 4].max() for i in range(20)]
            unit = key[b, h] / np.linalg.norm(key[b, h], axis=1, keepdims=True)
            cosine = unit @ unit.T
            np.fill_diagonal(cosine, 0)
            alike = np.exp(cosine.mean(1))
            expected[b, h] = importance * np.array(pooled) - (1 - importance) * alike / alike.sum()
    found = eviction_score(*parts(20)[:2], 0.3, importance)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def latents_of(pipe: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    call = {**CASE.call, "num_inference_steps": STEPS, "output_type": "latent", "generator": generator}
    found: Tensor = pipe(**call).frames
    return found


def under(policy: bwcache.Policy[Any]) -> tuple[Tensor, bwcache.Session]:
    pipe = wan.far_pipeline(CHUNKS)
    with bwcache.attach(pipe, policy) as session:
        return latents_of(pipe), session


class Plain:
    """The method on self-attention, in numpy: all keys and values are found anew, and kept by chunk and step."""

    def __init__(self, interval: int) -> None:
        self.interval, self.calls = interval, 0
        self.kept: tuple[int, np.ndarray, np.ndarray] | None = None
        self.size = -1

    @staticmethod
    def turned(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turns
        return np.stack((pairs.real, pairs.imag), -1).reshape(x.shape)

    @staticmethod
    def looked(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
        total = scores.sum(-1, keepdims=True)
        return scores @ value / total, total

    def attend(self, attn: Any, inner: Any) -> Any:
        def forward(hidden_states: Tensor, **given: Any) -> Any:
            cache, flag = given.get("kv_cache"), given.get("kv_cache_flag")
            few, many = (
                (flag or {}).get("num_cached_compressed_tokens", 0),
                (flag or {}).get("num_cached_full_tokens", 0),
            )
            if cache is None or flag["is_cache_step"] or few + many == 0:
                self.size = -1
                return inner(hidden_states, **given)
            heads = [
                norm(layer(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2).double().numpy()
                for layer, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k), (attn.to_v, lambda x: x))
            ]
            turns = given["rotary_emb"]["key"].numpy()
            query = self.turned(heads[0], given["rotary_emb"]["query"].numpy())
            own = self.turned(heads[1], turns[..., -heads[1].shape[2] :, :])
            zeros = np.zeros((*own.shape[:2], -own.shape[2] % 128, own.shape[3]))
            inside, weight = self.looked(query, np.concatenate((own, zeros), 2), np.concatenate((heads[2], zeros), 2))
            if self.size != few + many:
                self.size, self.calls = few + many, 0
            if self.calls % self.interval == 0:
                key, value = (
                    np.concatenate((cache["compressed_cache"][i, :, :, :few], cache["full_cache"][i, :, :, :many]), 2)
                    for i in range(2)
                )
                outside, other = self.looked(query, self.turned(key, turns[..., : few + many, :]), value)
                self.kept = (0, outside, other)
            self.calls += 1
            assert self.kept is not None
            made = (weight * inside + self.kept[2] * self.kept[1]) / (weight + self.kept[2])
            made = torch.from_numpy(made).to(hidden_states.dtype).transpose(1, 2).flatten(2, 3)
            return attn.to_out[0](made)

        return forward


@proves(FlashBlock, NUMPY, "latents up to rounding", on={"AnyFlowFARTransformer3DModel": (NONE,)})
@pytest.mark.parametrize("interval", [1, 3])
def test_it_is_a_second_implementation(interval: int) -> None:
    made, _ = under(FlashBlock(interval))
    pipe = wan.far_pipeline(CHUNKS)
    for block in pipe.transformer.blocks:
        block.attn1.forward = Plain(interval).attend(block.attn1, block.attn1.forward)
    expected = latents_of(pipe)
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()


def test_where_it_is_computed_in_each_step_it_is_the_models_own_attention() -> None:
    plain = latents_of(wan.far_pipeline(CHUNKS))
    made, session = under(FlashBlock(1))
    assert (made - plain).abs().max() <= CLOSE * plain.abs().max()
    assert len(session.traces) == len(CHUNKS)
    kept, _ = under(FlashBlock(STEPS))
    assert (kept - plain).abs().max() > 10 * CLOSE * plain.abs().max()
    assert (kept - plain).abs().max() < 0.5 * plain.abs().max()


def test_a_budget_of_all_tokens_is_none_and_a_small_one_is_less() -> None:
    plain, _ = under(FlashBlock(1))
    assert torch.equal(under(FlashBlock(1, budget=10_000))[0], plain)
    assert not torch.equal(under(FlashBlock(1, budget=1))[0], plain)


def test_it_leaves_nothing() -> None:
    pipe = wan.far_pipeline(CHUNKS)
    before = [block.attn1.processor for block in pipe.transformer.blocks]
    plain = latents_of(pipe)
    with bwcache.attach(pipe, FlashBlock()) as session:
        assert all(type(block.attn1.processor) is CausalAttention for block in pipe.transformer.blocks)
        twice = latents_of(pipe), latents_of(pipe)
        assert torch.equal(*twice)
        session.use(bwcache.NeverReuse())  # from the next run on
        assert torch.equal(latents_of(pipe), plain)
        assert [block.attn1.processor for block in pipe.transformer.blocks] == before
        session.use(bwcache.Guarded(FlashBlock()))
        assert torch.equal(latents_of(pipe), twice[0])
    assert [block.attn1.processor for block in pipe.transformer.blocks] == before
    assert torch.equal(latents_of(pipe), plain)


def test_other_models_are_refused() -> None:
    with pytest.raises(AttachError, match=r"log-sum-exp of what lies outside of the current chunk.*FixedInterval"):
        bwcache.attach(tiny.wan_transformer(), FlashBlock())


@pytest.mark.parametrize("bad", [{"interval": 0}, {"budget": 0}, {"importance": 2}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        FlashBlock(**bad)
