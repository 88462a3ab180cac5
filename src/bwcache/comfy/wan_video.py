"""The second door: models of WanVideoWrapper, whose sampler node calls the denoiser in a loop of its own.

None of ComfyUI's wrapper points is passed there. So this stands around the sampler node's function, for the models that
ask for it, and around the denoiser while that runs. Which evaluation a forward is says its time, among the times of the
scheduler; which branch, what it is given beside the latents.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

import bwcache
from bwcache.comfy.conditions import Conditions
from bwcache.comfy.rows import expect_carried
from bwcache.comfy.runs import Runs
from bwcache.comfy.sampling import KEY, Settings, cost, line
from bwcache.core.trace import Trace
from bwcache.engine import hooks
from bwcache.engine.clock.host import goes_one_way
from bwcache.errors import AlreadyAttachedError, AttachError, complaint
from bwcache.models import BlockSpec

NODE, FUNCTION, SCHEDULER = "WanVideoSampler", "process", "get_scheduler"
"""What is stood around: the node, its function, and what that calls to get its times."""
ROW = BlockSpec(
    "WanModel", (), latents="x", latents_listed=True, timestep="t", entry="forward", per_sample=False, module_prefix=""
)
TIMES = 1000.0
"""The time at which all is noise."""
NEAR = 1e-3
ROUNDED = 1.5
"""So far is a time from its sigma that is rounded to a whole number."""
LOG = logging.getLogger("bwcache")


def cached(model: Any, settings: Settings) -> tuple[Any, Runs]:
    """Return a clone of a model of WanVideoWrapper whose samplings reuse, and what will be told of them.

    Raises:
        BWCacheError: it is no such model, the policy does not fit it, or the wrapper is of another making.
    """
    module = getattr(getattr(model, "model", None), "diffusion_model", None)
    if module is None or not hasattr(model, "set_attachments"):
        found = f"a {type(model).__name__}"
        raise AttachError(complaint(found, "a model of WanVideoWrapper's loader", "use the node BWCache for others"))
    expect_carried(settings.policy, module, ROW)
    stand_around(sampler())
    runs, clone = Runs(), model.clone()
    clone.set_attachments(KEY, (settings, runs))
    return clone, runs


def sampler() -> type:
    """Return the class of the sampler node.

    Raises:
        AttachError: there is none, or its function is not what is known here.
    """
    kind: type | None = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get(NODE)
    if kind is None:
        raise AttachError(complaint(f"no node {NODE}", "the pack WanVideoWrapper", "install it, or update it"))
    function = getattr(kind, FUNCTION, None)
    made = inspect.unwrap(function) if function is not None else None
    if made is None or "model" not in inspect.signature(made).parameters or SCHEDULER not in made.__globals__:
        found = f"a {NODE} whose {FUNCTION} takes no model, or asks no {SCHEDULER} for its times"
        expected = "those of WanVideoWrapper 1.4.7"
        raise AttachError(complaint(found, expected, "update this pack; until then use the model without this node"))
    return kind


def stand_around(kind: type) -> None:
    """Stand around a sampler node's function, once: models that do not ask for it are sampled as ever."""
    own = getattr(kind, FUNCTION)
    if hasattr(own, KEY):
        return

    @functools.wraps(own)
    def process(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(own).bind(self, *args, **kwargs).arguments
        attachment: Any = getattr(given.get("model"), "get_attachment", None)
        asked = attachment(KEY) if attachment is not None else None
        if asked is None:
            return own(self, *args, **kwargs)
        settings, runs = asked
        with sampled(settings, runs, given, inspect.unwrap(own).__globals__):
            made = own(self, *args, **kwargs)
        first = made[0] if isinstance(made, tuple) and made else None
        runs.ended_with(first.get("samples") if isinstance(first, Mapping) else None)
        return made

    setattr(process, KEY, True)
    setattr(kind, FUNCTION, process)


@contextmanager
def sampled(settings: Settings, runs: Runs, given: Mapping[str, Any], names: dict[str, Any]) -> Iterator[None]:
    """Around one sampling.

    Args:
        settings: of the node.
        runs: what is told of it.
        given: what the sampler node is given, by name.
        names: what its function sees: the scheduler is asked for by its name among them.
    """
    module = given["model"].model.diffusion_model
    sampling = Sampling(settings, module)
    with ExitStack() as undo:
        undo.callback(sampling.end, runs)
        sampling.note = unknown(given, module)
        if not sampling.note:
            scheduler = hooks.Entry(names, SCHEDULER, sampling.listening)
            undo.callback(scheduler.restore)
            if isinstance(given.get("scheduler"), Mapping):
                sampling.begin(given["scheduler"]["sample_scheduler"], given["scheduler"]["timesteps"])
            undo.callback(hooks.intercept(module, sampling.around).restore)
        yield


def unknown(given: Mapping[str, Any], module: Any) -> str:
    """Return why a sampling is left alone, or ""."""
    options = given["model"].model_options.get("transformer_options", {})
    reasons = {
        "context_options: which frames a window holds is not said": given.get("context_options"),
        "loop_args: the frames move in each step": given.get("loop_args"),
        "cache_args: WanVideoWrapper's own cache is at work": given.get("cache_args"),
        "the LoRAs change in each step": options.get("lora_scheduling_enabled"),
        "the prediction of LongCat is of another sign": getattr(module, "is_longcat", False),
        "picture and sound of Ovi are predicted in one": getattr(module, "audio_model", None) is not None,
    }
    found = [reason for reason, there in reasons.items() if there]
    return f"{'; '.join(found)}: nothing was reused here" if found else ""


class Sampling:
    """One sampling: the times of its scheduler, and the session of its denoiser.

    Args:
        settings: of the node.
        module: the denoiser.

    Attributes:
        note: what a person should know of it.
    """

    def __init__(self, settings: Settings, module: Any) -> None:
        self._settings, self._module = settings, module
        self._times: list[float] = []
        self._shares: tuple[float, ...] = ()
        self._session: bwcache.Session | None = None
        self._traces: list[Trace] = []
        self._conditions = Conditions()
        self.note = ""

    def listening(self, get_scheduler: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that makes the scheduler, overheard."""

        @functools.wraps(get_scheduler)
        def overheard(*args: Any, **kwargs: Any) -> Any:
            made = get_scheduler(*args, **kwargs)
            self.begin(*made[:2])
            return made

        return overheard

    def begin(self, scheduler: Any, times: Any) -> None:
        """A run begins, at these times."""
        self._let_go()
        self._times = [float(time) for time in times]
        self._shares = _shares(self._times, [float(sigma) for sigma in getattr(scheduler, "sigmas", ())])
        self._conditions = Conditions()

    def around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """Return the denoiser's call with what is to be said of it around it."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            index = self._index_of(kwargs.get("t"), kwargs.get("current_step"))
            session = self._attached() if self._times else None
            if session is None:
                return inner(*args, **kwargs)
            if index is None or args:
                self.note = "a forward came at a time that the scheduler had not listed: it was computed"
                with session.aside():
                    return inner(*args, **kwargs)
            branch = self._conditions.name(kwargs, self._module, index, len(self._times))
            with session.step(**self._said(index), branch=branch):
                return inner(*args, **kwargs)

        hidden: Callable[..., Any] = torch.compiler.disable(forward)
        return hidden

    def _said(self, index: int) -> dict[str, Any]:
        shares = self._shares
        said = {"index": index, "total": len(self._times), "sigma": shares[index], "prediction": "flow"}
        if goes_one_way(shares):
            return {**said, "schedule": shares}
        return {**said, "noise": (shares[index], shares[index + 1])}

    def _index_of(self, time: Any, step: Any) -> int | None:
        """Which of the listed times it is. Where frames have times of their own it is the highest.

        Args:
            time: that the denoiser is told.
            step: what the sampler calls it, which tells times apart that are rounded alike.
        """
        if time is None:
            return None
        at = float(time.max())
        alike = [index for index, listed in enumerate(self._times) if abs(listed - at) < NEAR]
        return step if step in alike else next(iter(alike), None)

    def _attached(self) -> bwcache.Session | None:
        if self._session is None and not self.note:
            policy = self._settings.of_run(len(self._times))
            try:
                self._session = bwcache.attach(
                    self._module, policy, spec=ROW, per_sample=False, memory=self._settings.memory
                )
            except AlreadyAttachedError:
                self.note = "another session holds this model: nothing was done here"
                LOG.warning("bwcache: %s", self.note)
        return self._session

    def _let_go(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            for trace in session.traces:
                trace.meta["sampler_steps"] = len(self._times)
            self._traces += session.traces

    def end(self, runs: Runs) -> None:
        """The sampling is over, or broken off: let go of the model, and say what it came to."""
        self._let_go()
        for trace in self._traces:
            if self.note:
                trace.meta["note"] = self.note
            LOG.info("bwcache: %s; %s", line(trace), cost(trace))
        runs.add(self._traces, self.note)
        if not self._traces:
            LOG.warning("bwcache: %s", self.note or "the sampler evaluated nothing that could be seen")


def _shares(times: Sequence[float], sigmas: Sequence[float]) -> tuple[float, ...]:
    """Return the share of noise at each time and at the end: the scheduler's sigmas, where these are the times."""
    if len(sigmas) != len(times) + 1:
        sigmas = [*(time / TIMES for time in times), 0.0]
    elif any(abs(TIMES * sigma - time) > ROUNDED for sigma, time in zip(sigmas, times, strict=False)):
        sigmas = [*(time / TIMES for time in times), sigmas[-1]]
    return tuple(min(max(sigma, 0.0), 1.0) for sigma in sigmas)
