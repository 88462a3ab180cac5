"""A row is inherited only where its forward is; another cache at work on the denoiser is found and named."""

from __future__ import annotations

import functools
import types
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

import bwcache
from bwcache.errors import AttachError, NotProvenError
from bwcache.models import resolve, row
from tests.conformance.test_models import Stored, alike
from tests.tiny import Scripted, noise, seeded, wan, wan_transformer

CogVideoX = diffusers.CogVideoXTransformer3DModel
REUSED = frozenset({1, 2, 4})


class ReadsText(CogVideoX):  # type: ignore[valid-type, misc]
    """Adds the mean of the text after the last block, which the row of its base says nobody reads."""

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, timestep: Tensor) -> Tensor:
        temb = self.time_embedding(self.time_proj(timestep).to(hidden_states.dtype))
        tokens = self.patch_embed(encoder_hidden_states, hidden_states)
        text, video = tokens.split(
            [encoder_hidden_states.shape[1], tokens.shape[1] - encoder_hidden_states.shape[1]], 1
        )
        for block in self.transformer_blocks:
            video, text = block(hidden_states=video, encoder_hidden_states=text, temb=temb)
        return self.proj_out(self.norm_out(self.norm_final(video), temb=temb)) + text.mean()


class Plain(CogVideoX):  # type: ignore[valid-type, misc]
    """Something else than the forward is its own."""

    def describe(self) -> str:
        return "mine"


def cogvideox(kind: type) -> Any:
    return seeded(
        lambda: kind(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=4,
            text_embed_dim=16,
            num_layers=3,
            sample_width=4,
            sample_height=4,
            sample_frames=5,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=8,
        )
    )


def given(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 2, 4, 4, 4),
        "encoder_hidden_states": noise(1, 8, 16, seed=1),
        "timestep": torch.tensor([round(1000 * (1 - share))]),
    }


def outputs(module: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [made if isinstance(made := module(**given(i / 6)), Tensor) else made[0] for i in range(6)]


def test_a_class_with_a_forward_of_its_own_is_refused_and_told_the_way_out() -> None:
    with pytest.raises(NotProvenError, match=r"ReadsText .*forward of its own; expected that of CogVideoX.*discover"):
        bwcache.attach(cogvideox(ReadsText), Scripted(REUSED), steps=6)


def test_the_way_out_is_exact() -> None:
    """The row that `discover` finds keeps the text as well; brute force says that it has to."""
    module = cogvideox(ReadsText)
    found = bwcache.discover(module, given(0.0))
    assert set(found.read_after) == {"hidden_states", "encoder_hidden_states"}
    brute = Stored(resolve("model", module, found))
    expected = []
    for i in range(6):
        brute.replaying = i in REUSED
        with torch.no_grad():
            expected.append(module(**given(i / 6)))
    other = cogvideox(ReadsText)
    with bwcache.attach(other, Scripted(REUSED), steps=6, spec=found) as session:
        made = outputs(other)
    assert session.trace.reused == len(REUSED)
    assert alike(made, expected)


def test_a_row_that_is_passed_in_is_taken_at_its_word() -> None:
    known = row("CogVideoXTransformer3DModel")
    with bwcache.attach(cogvideox(ReadsText), Scripted(REUSED), steps=6, spec=known):
        pass


def test_a_class_that_leaves_the_forward_alone_has_the_row() -> None:
    module = cogvideox(Plain)
    with bwcache.attach(module, Scripted(REUSED), steps=6) as session:
        outputs(module)
    assert session.trace.reused == len(REUSED)


def test_a_method_that_the_forward_calls_counts_as_the_forward() -> None:
    class Helped(diffusers.UNet2DConditionModel):
        def get_time_embed(self, *args: Any, **how: Any) -> Any:
            return super().get_time_embed(*args, **how)

    with pytest.raises(NotProvenError, match="which has a get_time_embed of its own"):
        resolve("unet", Helped.from_config(_unet_config()))


def _unet_config() -> dict[str, Any]:
    return {
        "sample_size": 8,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
    }


def test_a_mixin_before_the_class_counts_too() -> None:
    class Mixin:
        def forward(self, *args: Any, **how: Any) -> Any:
            return super().forward(*args, **how)  # type: ignore[misc]

    with pytest.raises(NotProvenError, match="forward of its own"):
        resolve("model", wan_transformer(model=type("Mixed", (Mixin, diffusers.WanTransformer3DModel), {})))


def test_a_block_with_a_forward_of_its_own_is_refused() -> None:
    class MyBlock(WanTransformerBlock):
        def forward(self, *args: Any, **how: Any) -> Any:
            return super().forward(*args, **how)

    module = wan_transformer()
    module.blocks[1].__class__ = MyBlock
    with pytest.raises(NotProvenError, match=r"blocks of MyBlock .*expected that of WanTransformerBlock.*discover"):
        resolve("model", module)


def test_a_function_around_the_forward_hides_no_argument() -> None:
    """Timers and the like, put on before the session."""
    module = wan_transformer()
    inner = module.forward
    module.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert resolve("model", module).timestep.position == 1
    with bwcache.attach(module, Scripted(frozenset({1})), steps=3) as session, torch.no_grad():
        for i in range(3):
            module(noise(1, 4, 2, 4, 4), torch.tensor([999 - i]), noise(1, 6, 8, seed=1))
    assert [event.action for event in session.trace.events] == ["compute", "reuse", "compute"]


def test_a_wrapper_that_says_what_it_wraps_is_let_through() -> None:
    module = wan_transformer()
    inner = module.forward

    @functools.wraps(inner)
    def timed(hidden_states: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        return inner(hidden_states, timestep, *args, **kwargs)

    module.forward = timed
    assert len(resolve("model", module).blocks) == 4


def teacache_forward(self: Any, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Any:
    """As repositories of caches put it in the place of a model's forward."""


def test_another_function_in_the_place_of_the_forward_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = wan_transformer()
    found = r"teacache_forward of tests\.models\.test_provenance in the place of WanTransformer3DModel\.forward"
    module.forward = types.MethodType(teacache_forward, module)
    with pytest.raises(AttachError, match=found):
        bwcache.attach(module)
    del module.forward
    monkeypatch.setattr(diffusers.WanTransformer3DModel, "forward", teacache_forward)
    with pytest.raises(AttachError, match=found):
        bwcache.attach(module)


def test_caches_of_diffusers_are_named_however_they_were_put_on() -> None:
    from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

    module = wan_transformer()
    apply_first_block_cache(module, FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(AttachError, match=r"FBC\w+ of diffusers at work on model; expected one cache at a time"):
        bwcache.attach(module)


def test_hooks_of_diffusers_that_are_no_caches_are_let_through() -> None:
    module = wan_transformer()
    module.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    with bwcache.attach(module):
        pass


def test_cache_dit_is_named() -> None:
    cache_dit = pytest.importorskip("cache_dit")
    from cache_dit.caching.cache_adapters import CachedAdapter

    pipe = wan()
    with pytest.MonkeyPatch.context() as undo:
        undo.setattr(type(pipe), "__call__", type(pipe).__call__)  # it patches the class; put back here
        undo.setattr(type(pipe), "_is_cached", False, raising=False)
        CachedAdapter.apply(pipe, cache_config=cache_dit.DBCacheConfig(num_inference_steps=8), calibrator_config=None)
        with pytest.raises(AttachError, match=r"cache-dit at work on transformer; expected one cache at a time"):
            bwcache.attach(pipe)
