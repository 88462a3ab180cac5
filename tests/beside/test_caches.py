"""Two caches on one model are refused, whichever comes first, and whoever else is at work is named.

The other order, another cache and then `attach`: `engine/test_session.py`, `models/test_provenance.py`.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from diffusers import FirstBlockCacheConfig
from torch import nn

import bwcache
from bwcache import AttachError, BlocksChangedError
from tests.beside.attached import CAREFREE, LINE, cached, lines, plain, same
from tests.tiny import WAN, wan


class UnifiedBlocks(nn.Module):
    """All blocks in the place of the first, as some caches put it there for as long as a forward takes."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        for block in self.blocks:
            hidden_states = block(hidden_states, *args, **kwargs)
        return hidden_states


def swap_blocks(module: Any, others: Callable[[int], nn.ModuleList]) -> None:
    """Put a function over the forward that puts other blocks there while it runs."""
    inner, calls = module.forward, iter(range(99))

    def new_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(self, "blocks", others(next(calls))):
            return inner(*args, **kwargs)

    module.forward = types.MethodType(new_forward, module)


def unify(module: Any) -> None:
    """Do what cache-dit, ParaAttention and xDiT do."""
    unified = nn.ModuleList([UnifiedBlocks(module.blocks)])
    swap_blocks(module, lambda call: unified)


def test_another_cache_that_is_switched_on_while_attached_is_refused() -> None:
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        with pytest.raises(AttachError, match="FirstBlockCacheConfig"):
            pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=5.0))
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE]


def test_another_cache_before_and_after_a_session() -> None:
    pipe = wan()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=5.0))
    by_the_other = WAN.run(pipe)
    pipe.transformer.disable_cache()
    with bwcache.attach(pipe, CAREFREE) as session:
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE]
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=5.0))
    same(WAN.run(pipe), by_the_other)
    pipe.transformer.disable_cache()
    same(WAN.run(pipe), plain())


def refused_until_it_goes(put_on: Callable[[Any], None], take_off: Callable[[Any], None], found: str) -> None:
    """Another cache comes while a session is attached: its name is said, and after it the session goes on."""
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        put_on(pipe.transformer)
        with pytest.raises(AttachError, match=found):
            WAN.run(pipe)
        take_off(pipe.transformer)
        same(WAN.run(pipe), cached())
    assert lines(session)[-1] == LINE
    same(WAN.run(pipe), plain())


def test_blocks_that_are_replaced_while_a_forward_runs() -> None:
    found = (
        r"UnifiedBlocks \(tests\.beside\.test_caches\) in the place of blocks\.0 of transformer; expected the blocks "
        r"that the session was attached to .*disable it"
    )
    refused_until_it_goes(unify, lambda module: delattr(module, "forward"), found)


@pytest.mark.parametrize(("package", "name"), [("cache_dit", "cache-dit"), ("para_attn", "ParaAttention")])
def test_caches_that_are_known_by_name(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = f"{name} at work on transformer; expected one cache at a time; disable it first"
    monkeypatch.setattr(UnifiedBlocks, "__module__", f"{package}.caching")
    refused_until_it_goes(unify, lambda module: delattr(module, "forward"), found)

    def by_its_forward(module: Any) -> None:
        swap_blocks(module, lambda call: module.blocks)
        module.forward.__func__.__module__ = f"{package}.caching"

    refused_until_it_goes(by_its_forward, lambda module: delattr(module, "forward"), found)


def test_blocks_that_are_replaced_for_good() -> None:
    kept: list[nn.ModuleList] = []

    def put_on(module: Any) -> None:
        kept.append(module.blocks)
        module.blocks = nn.ModuleList([*module.blocks[:2], UnifiedBlocks(module.blocks[2:])])

    def take_off(module: Any) -> None:
        module.blocks = kept[0]

    refused_until_it_goes(put_on, take_off, r"UnifiedBlocks .* in the place of blocks\.2 of transformer")


def test_another_forward() -> None:
    def tea_forward(self: Any, hidden_states: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
        raise NotImplementedError

    def put_on(module: Any) -> None:
        module.forward = types.MethodType(tea_forward, module)

    refused_until_it_goes(
        put_on, lambda module: delattr(module, "forward"), r"tea_forward of tests\.beside.* in the place"
    )


def test_hooks_of_diffusers_that_were_put_on_by_hand() -> None:
    from diffusers.hooks import HookRegistry, apply_first_block_cache

    def take_off(module: Any) -> None:
        for part in module.modules():
            registry: Any = HookRegistry.check_if_exists_or_initialize(part)
            for name in ("fbc_leader_block_hook", "fbc_block_hook"):
                registry.remove_hook(name, recurse=False)

    put_on = lambda module: apply_first_block_cache(module, FirstBlockCacheConfig(threshold=5.0))  # noqa: E731
    refused_until_it_goes(put_on, take_off, r"FBC\w+ of diffusers at work on transformer")


def test_a_function_that_changes_the_blocks_in_a_reused_step_is_named() -> None:
    """Nothing is there to be seen as the run begins."""
    pipe = wan()
    blocks = pipe.transformer.blocks
    fewer = nn.ModuleList([*blocks[:2], *blocks[3:]])
    with bwcache.attach(pipe, CAREFREE):
        swap_blocks(pipe.transformer, lambda call: blocks if call < 6 else fewer)
        with pytest.raises(
            BlocksChangedError, match=r"under swap_blocks\S+new_forward of tests\.beside.*one cache at a time"
        ):
            WAN.run(pipe)


def test_cache_dit_on_top() -> None:
    cache_dit = pytest.importorskip("cache_dit")
    from cache_dit.caching.cache_adapters import CachedAdapter

    pipe = wan()
    config = cache_dit.DBCacheConfig(num_inference_steps=8, Fn_compute_blocks=1)
    with bwcache.attach(pipe, CAREFREE) as session:
        CachedAdapter.apply(pipe, cache_config=config, calibrator_config=None)
        try:
            with pytest.raises(AttachError, match=r"cache-dit at work on transformer; expected one cache at a time"):
                WAN.run(pipe)
        finally:
            cache_dit.disable_cache(pipe)
        same(WAN.run(pipe), cached())
    assert lines(session)[-1] == LINE
