"""Caches of diffusers as oracles: enabled as they come, what they decide written down, gone afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers.hooks import first_block_cache as fbc
from diffusers.hooks import pyramid_attention_broadcast as pab
from diffusers.hooks import taylorseer_cache as seer

from bwcache.study.peers.hooked import by_branch, hooks_of


@contextmanager
def first_block(pipe: Any, threshold: float) -> Iterator[list[str]]:
    """First-Block cache at work; what it decides, forward by forward."""
    said: list[str] = []
    decide = fbc.FBCHeadBlockHook._should_compute_remaining_blocks

    def noted(hook: Any, residual: Any) -> bool:
        computes = decide(hook, residual)
        said.append("compute" if computes else "reuse")
        return computes

    with mock.patch.object(fbc.FBCHeadBlockHook, "_should_compute_remaining_blocks", noted):
        pipe.transformer.enable_cache(fbc.FirstBlockCacheConfig(threshold=threshold))
        try:
            yield said
        finally:
            pipe.transformer.disable_cache()


@contextmanager
def pyramid(pipe: Any, **settings: Any) -> Iterator[dict[str, list[str]]]:
    """Pyramid Attention Broadcast at work, with a state for each branch; what it decides, by module."""
    said: dict[str, list[str]] = {}
    names = {module: name for name, module in pipe.transformer.named_modules()}
    config = pab.PyramidAttentionBroadcastConfig(**settings, current_timestep_callback=lambda: pipe.current_timestep)
    inner = pab.PyramidAttentionBroadcastHook.new_forward

    def noted(hook: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        kept = hook.state.cache
        returned = inner(hook, module, *args, **kwargs)
        said.setdefault(names[module], []).append("reuse" if returned is kept else "compute")
        return returned

    with ExitStack() as undo:
        undo.enter_context(mock.patch.object(pab.PyramidAttentionBroadcastHook, "new_forward", noted))
        pipe.transformer.enable_cache(config)
        undo.callback(pipe.transformer.disable_cache)
        for _, hook in hooks_of(pipe.transformer):
            by_branch(hook, pab.PyramidAttentionBroadcastState)
        yield said


@contextmanager
def taylorseer(
    pipe: Any, layers: Sequence[str], computes: Callable[[int], bool] | None = None, **settings: Any
) -> Iterator[list[str]]:
    """TaylorSeer at work on these modules; what it decides, by call. `computes`: another timetable than its own."""
    said: list[str] = []
    decide = seer.TaylorSeerCacheHook._measure_should_compute

    def noted(hook: Any) -> Any:
        found, state = decide(hook)
        if computes is not None:
            found = computes(state.current_step)
        said.append("compute" if found else "reuse")
        return found, state

    names = [re.escape(name) for name in layers]
    config = seer.TaylorSeerCacheConfig(**settings, taylor_factors_dtype=torch.float32, cache_identifiers=names)
    with mock.patch.object(seer.TaylorSeerCacheHook, "_measure_should_compute", noted):
        pipe.transformer.enable_cache(config)
        try:
            yield said
        finally:
            pipe.transformer.disable_cache()
