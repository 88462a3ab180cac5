"""sglang: hooks around the denoising of its diffusion workers, by its own plugin registry.

`register` is what sglang finds (entry point group `sglang.multimodal_gen.plugins`; releases before it had its own group
loaded `sglang.srt.plugins`). A request asks by `diffusers_kwargs={"bwcache": "balanced"}`, which every one of its doors
hands on to the worker and compares before it batches requests; the environment variable BWCACHE says what those get
that ask for nothing. Without either nothing is touched.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import bwcache
from bwcache.core.words import shown
from bwcache.errors import AttachError, BWCacheError, SettingError, complaint
from bwcache.servers.asked import KEY, Asked, Settings
from bwcache.servers.levels import Levels, levels
from bwcache.servers.sampling import attached, expect_known, line, row, step

WORDS = "diffusers_kwargs"
"""The field of a request in which ours stands."""
VARIABLE = "BWCACHE"
"""The environment variable with a grade, or with JSON: what `Settings` takes."""
REGISTRIES = ("sglang.multimodal_gen.runtime.platforms.plugins", "sglang.srt.plugins.hook_registry")
"""Where the registry of hooks is, the newer one first: diffusion workers apply the hooks of that one alone."""
PIPELINE = "sglang.multimodal_gen.runtime.pipelines_core.composed_pipeline_base.ComposedPipelineBase"
STAGE = "sglang.multimodal_gen.runtime.pipelines_core.stages.denoising.DenoisingStage"
STEP = ("_run_denoising_step", "_predict_noise_with_cfg", "_predict_noise")
"""What makes a step of its loop: what a denoiser returns goes to the scheduler as it is, guidance apart."""
DIFFUSERS_STAGE = "sglang.multimodal_gen.runtime.pipelines.diffusers_pipeline.DiffusersExecutionStage"
LOG = logging.getLogger("sglang.multimodal_gen.bwcache")


@dataclass
class Sampling:
    """One denoising loop: its session, its noise levels, and the stage whose loop it is."""

    session: bwcache.Session
    levels: Levels
    stage: Any
    batch: Any
    names: dict[bool, str] | None


_HERE: ContextVar[Sampling | None] = ContextVar("bwcache_sampling", default=None)


def register() -> None:
    """Register the hooks; called by sglang in each of its processes.

    Raises:
        BWCacheError: the environment variable says what cannot be, or this sglang has no such registry.
    """
    settings()
    registry = _registry()
    registry.HookRegistry.register(f"{STAGE}._run_denoising_loop", around_loop, registry.HookType.AROUND)
    registry.HookRegistry.register(f"{STAGE}._predict_noise", around_forward, registry.HookType.AROUND)
    registry.HookRegistry.register(f"{DIFFUSERS_STAGE}.forward", around_call, registry.HookType.AROUND)
    registry.HookRegistry.register(f"{PIPELINE}.forward", around_pipeline, registry.HookType.AROUND)


def _registry() -> Any:
    for path in REGISTRIES:
        try:
            found = importlib.import_module(path)
        except ImportError:
            continue
        if hasattr(found, "HookRegistry") and hasattr(found, "HookType"):
            return found
    raise AttachError(
        complaint(f"sglang {version('sglang')} without {REGISTRIES[0]}", "sglang 0.5.23", "install that or a newer one")
    )


def settings() -> Settings:
    """Return what the environment says.

    Raises:
        SettingError: it cannot be.
    """
    said = os.environ.get(VARIABLE, "").strip()
    try:
        return Settings(json.loads(said) if said.startswith("{") else said or None)
    except json.JSONDecodeError as error:
        found = f"{VARIABLE}={shown(said)}, which is no JSON ({error})"
        raise SettingError(complaint(found, "a grade, or JSON", f"{VARIABLE}=balanced")) from error


def around_loop(loop: Callable[..., Any], stage: Any, ctx: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """One denoising loop."""
    with _asked(batch, lambda asked: begun(stage, ctx, batch, asked)) as sampling:
        before = _HERE.set(sampling)
        try:
            return loop(stage, ctx, batch, *args, **kwargs)
        finally:
            _HERE.reset(before)


def around_forward(forward: Callable[..., Any], stage: Any, *args: Any, **kwargs: Any) -> Any:
    """One forward of a denoiser, of one guidance branch."""
    sampling = _HERE.get()
    if sampling is None or sampling.stage is not stage:
        return forward(stage, *args, **kwargs)
    with _said(sampling):
        return forward(stage, *args, **kwargs)


def around_call(call: Callable[..., Any], stage: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """One call of a pipeline of diffusers, where sglang is told to run that: the session finds out the rest.

    What else stands in `diffusers_kwargs` is handed to the pipeline, which does not know our word.
    """
    pipe = stage.diffusers_pipe
    with _asked(batch, lambda asked: bwcache.attach(pipe, asked.policy, memory=asked.memory)), _without_word(batch):
        return call(stage, batch, *args, **kwargs)


@contextmanager
def _without_word(batch: Any) -> Iterator[None]:
    before = (batch.extra or {}).get(WORDS)
    if not isinstance(before, Mapping):
        yield
        return
    batch.extra[WORDS] = {name: value for name, value in before.items() if name != KEY}
    try:
        yield
    finally:
        batch.extra[WORDS] = before


def around_pipeline(call: Callable[..., Any], pipeline: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """One request from end to end: where it was sampled past the loop that we stand around, that is said."""
    _greet()
    result = call(pipeline, batch, *args, **kwargs)
    if not _is_told(batch) and any(stage.role_affinity.value == "denoiser" for stage in pipeline.stages):
        with _asked(batch, lambda asked: _unheard(pipeline)):
            if result is not batch and _is_told(batch):
                result.usage = batch.usage
    return result


@cache
def _greet() -> None:
    """Say once that we are here: as plugins are loaded, sglang's log does not show what they say yet."""
    usual = settings().usual
    LOG.info("bwcache: here; requests that say nothing: %s", "off" if usual is None else usual.word)


def _unheard(pipeline: Any) -> None:
    """Raise: nobody asked us while a request was sampled.

    Raises:
        AttachError: always.
    """
    found = f"{type(pipeline).__name__}, which samples in a loop of its own"
    expected = f"one that samples in {STAGE.rpartition('.')[2]}'s"
    raise AttachError(complaint(found, expected, f"leave the request without {KEY}"))


@contextmanager
def _asked(batch: Any, begin: Callable[[Asked], Any]) -> Iterator[Any]:
    """What a request asks for, begun; or None. Whatever is wrong with it: it is said, and everything is computed."""
    asked = begun = None
    try:
        asked = None if batch.is_warmup else asked_by(batch)
        begun = None if asked is None else begin(asked)
    except Exception as error:  # of ours, before anything of sglang's ran
        LOG.error("bwcache: %s: everything is computed: %s", _name(batch), str(error), exc_info=not _is_ours(error))
        _tell(batch, {"policy": None if asked is None else asked.word, "problem": str(error)})
    if asked is None or begun is None:
        yield None
        return
    session = begun if isinstance(begun, bwcache.Session) else begun.session
    try:
        yield begun
    finally:
        session.close()
        for trace in session.traces:
            LOG.info("bwcache: %s", line(trace, asked, _name(batch)))
            _tell(batch, row(trace, asked))


def _is_ours(error: Exception) -> bool:
    return isinstance(error, BWCacheError)


@contextmanager
def _said(sampling: Sampling) -> Iterator[None]:
    """Say where a forward stands, as sglang's own context of it says."""
    context = importlib.import_module("sglang.multimodal_gen.runtime.managers.forward_context")
    index = context.get_forward_context().current_timestep
    names = sampling.names
    branch = None if names is None else names[bool(sampling.batch.is_cfg_negative)]
    with step(sampling.session, sampling.levels, index, branch):
        yield


def asked_by(batch: Any) -> Asked | None:
    """Return what a request asks for; None: nothing.

    Raises:
        SettingError: what it says cannot be.
    """
    said = (batch.extra or {}).get(WORDS) or {}
    if not isinstance(said, Mapping):
        raise SettingError(complaint(f"{WORDS} {shown(said)}", f'{{"{KEY}": "near"}}', "send it as JSON"))
    return settings().of(said.get(KEY))


def begun(stage: Any, ctx: Any, batch: Any, asked: Asked) -> Sampling:
    """Return the sampling of a loop that is about to begin; its denoisers are held from now on.

    Raises:
        BWCacheError: it cannot be sampled as asked.
    """
    _expect_alone(stage, batch)
    _expect_own_step(stage)
    modules = {"transformer": stage.transformer, "transformer_2": stage.transformer_2}
    session = attached(modules, asked, direct=True)
    try:
        found = levels(ctx.scheduler, ctx.timesteps)
        expect_known(session, found)
    except BaseException:
        session.close()
        raise
    return Sampling(session, found, stage, batch, _names(ctx.cfg_policy))


def _expect_alone(stage: Any, batch: Any) -> None:
    """Raise where another cache is at work on this request, or the forward is a recorded graph.

    Raises:
        AttachError: so it is.
    """
    others = {
        "TeaCache": getattr(batch, "enable_teacache", False),
        "Spectrum": getattr(batch, "enable_spectrum", False),
        "cache-dit": getattr(stage, "_cache_dit_enabled", False),
    }
    for name, at_work in others.items():
        if at_work:
            action = f"ask for {name} or for {KEY}, not for both"
            raise AttachError(complaint(f"{name} at work on this request", "one cache at a time", action))
    if getattr(stage.server_args, "enable_breakable_cuda_graph", False):
        raise AttachError(
            complaint(
                "denoisers that are replayed as CUDA graphs",
                "calls in which something can be decided",
                "start the server without breakable CUDA graphs",
            )
        )


def _expect_own_step(stage: Any) -> None:
    """Raise where a stage makes its steps in a way of its own, so that nobody here knows what a denoiser returns.

    Raises:
        AttachError: it does.
    """
    home, _, name = STAGE.rpartition(".")
    usual = getattr(importlib.import_module(home), name)
    other = [path for path in STEP if getattr(type(stage), path) is not getattr(usual, path)]
    if other:
        found = f"{type(stage).__name__} with a {other[0]} of its own"
        raise AttachError(complaint(found, f"{name}'s", f"leave the request without {KEY}"))


def _names(policy: Any) -> dict[bool, str] | None:
    """What branches are called, by whether they are negative; None: there are others, which the session tells apart."""
    kinds = [bool(branch.is_conditional) for branch in getattr(policy, "branches", ())]
    return {False: "cond", True: "uncond"} if kinds in ([True], [True, False]) else None


def _name(batch: Any) -> str:
    return f"request {batch.request_id}"


def _is_told(batch: Any) -> bool:
    return KEY in (batch.usage or {})


def _tell(batch: Any, said: dict[str, Any]) -> None:
    """Hand it on in what sglang returns beside the pictures; a loop that comes again in a request is told too."""
    batch.usage = {**(batch.usage or {}), KEY: [*(batch.usage or {}).get(KEY, ()), said]}
