"""Caches of diffusers as oracles: enabled as they come, what they decide written down, gone afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers.hooks import faster_cache
from diffusers.hooks import first_block_cache as fbc
from diffusers.hooks import pyramid_attention_broadcast as pab

from bwcache.study.peers.hooked import by_branch, hooks_of
from tests import newer

mag, sea, seer = (newer.module(f"diffusers.hooks.{name}_cache") for name in ("mag", "sea", "taylorseer"))


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


@contextmanager
def mag_cache(pipe: Any, steps: int, ratios: Sequence[float], **settings: Any) -> Iterator[list[str]]:
    """MagCache at work; what it decides, forward by forward."""
    said: list[str] = []
    inner = mag.MagCacheHeadHook.new_forward

    def noted(hook: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        returned = inner(hook, module, *args, **kwargs)
        said.append("compute" if hook.state_manager.get_state().should_compute else "reuse")
        return returned

    with mock.patch.object(mag.MagCacheHeadHook, "new_forward", noted):
        pipe.transformer.enable_cache(
            mag.MagCacheConfig(mag_ratios=list(ratios), num_inference_steps=steps, **settings)
        )
        try:
            yield said
        finally:
            pipe.transformer.disable_cache()


@contextmanager
def sea_cache(pipe: Any, **settings: Any) -> Iterator[list[str]]:
    """SeaCache at work on latents with the channels first, told of its step by the scheduler; what it decides."""
    said: list[str] = []
    resolve, context = sea.SeaCacheSharedState.resolve_gate, pipe.transformer.cache_context

    def noted(shared: Any, state: Any, metadata: Any, indicator: Any, config: Any) -> bool:
        computes = resolve(shared, state, metadata, indicator, config)
        said.append("compute" if computes else "reuse")
        return bool(computes)

    def telling(name: str, **_: Any) -> Any:
        index = pipe.scheduler.step_index or 0
        sigma = float(pipe.scheduler.sigmas[index])
        sigma = 1 - sigma if pipe.scheduler.config.invert_sigmas else sigma  # it rises: the share of what is no noise
        return context(name, step_index=index, sigma=sigma, num_inference_steps=len(pipe.scheduler.timesteps))

    def latents(_module: Any, _args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
        return list(kwargs["hidden_states"].unbind(0))

    with (
        mock.patch.object(sea.SeaCacheSharedState, "resolve_gate", noted),
        mock.patch.object(pipe.transformer, "cache_context", telling),
    ):
        pipe.transformer.enable_cache(sea.SeaCacheConfig(raw_vision_callback=latents, **settings))
        try:
            yield said
        finally:
            pipe.transformer.disable_cache()


@contextmanager
def cfg_cache(pipe: Any, tensor_format: str, **settings: Any) -> Iterator[list[str]]:
    """The part of FasterCache for guidance at work, by itself; what it decides, forward by forward."""
    said: list[str] = []
    inner = faster_cache.FasterCacheDenoiserHook._get_cond_input

    def noted(given: Any) -> Any:
        said[-1] = "reuse"
        return inner(given)

    config = faster_cache.FasterCacheConfig(
        spatial_attention_timestep_skip_range=(5000, 5001),
        temporal_attention_timestep_skip_range=(5000, 5001),
        current_timestep_callback=lambda: pipe.current_timestep,
        tensor_format=tensor_format,
        **settings,
    )
    counter = pipe.transformer.register_forward_pre_hook(lambda *_: said.append("compute"))
    with mock.patch.object(faster_cache.FasterCacheDenoiserHook, "_get_cond_input", staticmethod(noted)):
        pipe.transformer.enable_cache(config)
        try:
            yield said
        finally:
            pipe.transformer.disable_cache()
            counter.remove()
