"""vllm-omni: a cache backend of the name "bwcache", in request mode and in step mode.

`register` is what vllm-omni finds (entry point group `vllm_omni.general_plugins`). Its selector of backends is a closed
list, so the function that selects is put a name longer; the backend itself keeps to its interface. A server asks by
`--cache-backend bwcache --cache-config '{"policy": "balanced"}'`, a request by `extra_args={"bwcache": "near"}`.

Step mode makes one step of each of several requests in turn, and refuses every cache backend: state would belong to the
model. Here it belongs to the request (`session.request`), so it can be kept while others are sampled, moved to another
thread, and dropped as the request is.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from importlib.metadata import version
from typing import Any

import torch

import bwcache
from bwcache.core.trace import Trace
from bwcache.core.words import shown
from bwcache.errors import AttachError, BWCacheError, SettingError, complaint
from bwcache.servers.asked import KEY, OFF, Asked, Settings
from bwcache.servers.levels import Levels, levels
from bwcache.servers.sampling import attached, expect_known, fitted, line, step

NAME = "bwcache"
USUAL = "balanced"
"""Of a server that names the backend and says no more."""
SELECTOR = "vllm_omni.diffusion.cache.selector"
RUNNER = "vllm_omni.diffusion.worker.diffusion_model_runner"
SELECTS = "get_cache_backend"
ADMISSION = "vllm_omni.diffusion.sched.request_scheduler"
ADMITS = "build_request_batch_sampling_params_key"
EXPECTED: dict[str, dict[str, tuple[str, ...]]] = {
    SELECTOR: {SELECTS: ("cache_backend", "cache_config")},
    ADMISSION: {ADMITS: ("request",)},
    RUNNER: {
        "DiffusionModelRunner._execute_stepwise": ("self", "scheduler_output"),
        "DiffusionModelRunner._refresh_cache_for_requests": ("self", "reqs"),
    },
}
"""What is relied upon, module by module: a function and its first arguments."""
KEPT_TRACES = 32
LOG = logging.getLogger("vllm_omni.bwcache")


def register() -> None:
    """Make the backend known to vllm-omni; called in each of its processes, and harmless when called again.

    Raises:
        AttachError: this vllm-omni is another one than is known here.
    """
    selector = importlib.import_module(SELECTOR)
    expect_door(selector)
    selector.CacheBackend.register(Backend)
    _put(selector, SELECTS, selecting)
    admission = importlib.import_module(ADMISSION)
    expect_door(admission)
    _put(admission, ADMITS, admitting)
    _at_runner()


def _at_runner() -> None:
    """Where the runner is loaded: it holds the selector's function under its own name, and refuses in step mode."""
    runner = sys.modules.get(RUNNER)
    if runner is not None:
        expect_door(runner)
        _put(runner, SELECTS, selecting)
        _put(runner.DiffusionModelRunner, "_execute_stepwise", stepping)
        _put(runner.DiffusionModelRunner, "_refresh_cache_for_requests", refreshing)


def expect_door(module: Any) -> None:
    """Raise unless a module of vllm-omni has what is relied upon here.

    Raises:
        AttachError: it has not, or with other arguments.
    """
    for path, expected in EXPECTED[module.__name__].items():
        found: Any = module
        for name in path.split("."):
            found = getattr(found, name, None)
        arguments = () if found is None else tuple(inspect.signature(inspect.unwrap(found)).parameters)
        if arguments[: len(expected)] != expected:
            there = f"{path}({', '.join(arguments)})" if found is not None else f"no {path}"
            raise AttachError(
                complaint(
                    f"vllm-omni {version('vllm-omni')} with {there} in {module.__name__}",
                    f"{path}({', '.join(expected)}), as in 0.30.0",
                    "install that release, or a bwcache for this one",
                )
            )


def _put(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put a function around another one, once."""
    inner = getattr(owner, name)
    if getattr(inner, NAME, None) is not around:
        setattr(owner, name, _around(inner, around))


def _around(inner: Callable[..., Any], around: Callable[..., Any]) -> Any:
    """A function that stands around another one, and can be told from it."""

    @wraps(inner)
    def called(*args: Any, **kwargs: Any) -> Any:
        return around(inner, *args, **kwargs)

    setattr(called, NAME, around)
    return called


def admitting(inner: Callable[..., Any], request: Any) -> Any:
    """What requests in one batch have in common: with it also what they ask of us."""
    key, said = inner(request), (request.sampling_params.extra_args or {}).get(KEY)
    return key if said is None else replace(key, condition_key=(KEY, repr(said), key.condition_key))


def selecting(inner: Callable[..., Any], cache_backend: Any, cache_config: Any) -> Any:
    """Return the backend of a name: ours, or what vllm-omni selects."""
    _at_runner()
    return Backend(cache_config) if cache_backend == NAME else inner(cache_backend, cache_config)


def stepping(inner: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
    """One step of some requests: the runner looks away from our backend, which keeps requests apart."""
    if not isinstance(runner.cache_backend, Backend):
        new = getattr(args[0] if args else kwargs["scheduler_output"], "scheduled_new_reqs", ())
        _say_unheard(runner, [each.req for each in new])
        return inner(runner, *args, **kwargs)
    config = runner.od_config
    named, config.cache_backend = config.cache_backend, "none"
    try:
        return inner(runner, *args, **kwargs)
    finally:
        config.cache_backend = named
        runner.cache_backend.keep_only(runner.state_cache)


def refreshing(inner: Callable[..., Any], runner: Any, reqs: Any, *args: Any, **kwargs: Any) -> Any:
    """As requests begin: those that ask us on a server that was not told of us are not passed over in silence."""
    if not isinstance(runner.cache_backend, Backend):
        _say_unheard(runner, reqs)
    return inner(runner, reqs, *args, **kwargs)


def _say_unheard(runner: Any, requests: Sequence[Any]) -> None:
    for request in requests:
        said = (request.sampling_params.extra_args or {}).get(KEY)
        if said not in (None, False, *OFF):
            found = f"{KEY} {shown(said)} asked of a server with cache backend {runner.od_config.cache_backend!r}"
            expected = f"a server with cache backend {NAME!r}, and one cache at a time"
            _say(request.request_id, SettingError(complaint(found, expected, f"start it with --cache-backend {NAME}")))


class Backend:
    """What vllm-omni calls a cache backend.

    Args:
        config: vllm-omni's, or a mapping: `policy`, `memory` and `policies`, as `Settings` has them.

    Attributes:
        config, enabled: as vllm-omni's own backends have them.
        traces: of the last requests, newest last.

    Raises:
        SettingError: the config says what cannot be.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.enabled = config, False
        said = config if isinstance(config, Mapping) else getattr(config, "_extra_params", None) or {}
        self.settings = Settings({"policy": USUAL, **said})
        self.traces: deque[Trace] = deque(maxlen=KEPT_TRACES)
        self._arounds: list[Around] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}(config={self.config})"

    def enable(self, pipeline: Any) -> None:
        """Stand around a pipeline's forward, and its steps. The model itself is held only while it samples."""
        around = Around(self, pipeline)
        self._arounds.append(around)
        for name in ("forward", "denoise_step", "predict_noise", *BRANCHING):
            if hasattr(pipeline, name):
                inner = getattr(pipeline, name)
                setattr(pipeline, name, _around(inner, getattr(around, name)))
        self.enabled = True
        usual = "off" if self.settings.usual is None else self.settings.usual.word
        LOG.info("bwcache: around %s; requests that say nothing: %s", type(pipeline).__name__, usual)

    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None:
        """Nothing: each request has a run of its own, which begins with it and ends with it."""

    def is_enabled(self) -> bool:
        """Return whether it is enabled."""
        return self.enabled

    def keep_only(self, names: Container[str]) -> None:
        """Let go of all requests in step mode but these: they are over, or were given up."""
        for around in self._arounds:
            around.keep_only(names)


BRANCHING = ("predict_noise_maybe_with_cfg", "predict_noise_with_multi_branch_cfg")
"""Methods of a pipeline that make one step's prediction, of all guidance branches."""


class Around:
    """What stands around one pipeline.

    Args:
        backend: whose settings hold.
        pipeline: vllm-omni's.
    """

    def __init__(self, backend: Backend, pipeline: Any) -> None:
        self._backend, self._pipeline = backend, weakref.proxy(pipeline)
        self._sampling: Sampling | None = None
        self._session: bwcache.Session | None = None
        self._requests: dict[str, Asked] = {}
        self._present: tuple[str, Asked] | None = None

    # --- request mode -------------------------------------------------------------------------------------------------

    def forward(self, inner: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        """One or several requests, from the first step to the last."""
        name, session = ", ".join(map(str, batch.request_ids)), None
        try:
            asked = self._asked(batch.sampling_params_list)
            if asked is not None:
                session, self._present = attached(self._denoisers(), asked, self._ended), (name, asked)
        except Exception as error:  # of ours, before anything of vllm-omni's ran
            _say(name, error)
        if session is None:
            return inner(batch, *args, **kwargs)
        self._sampling = sampling = Sampling(name, session, lambda: self._pipeline.scheduler)
        try:
            return inner(batch, *args, **kwargs)
        finally:
            self._sampling = None
            session.close()
            sampling.expect_told(self._pipeline)

    def _asked(self, parameters: Sequence[Any]) -> Asked | None:
        """What requests that are sampled together ask for.

        Raises:
            SettingError: they do not ask for the same.
        """
        each = [self._backend.settings.of((one.extra_args or {}).get(KEY)) for one in parameters]
        if any(one != each[0] for one in each):
            words = " and ".join(sorted({"off" if one is None else one.word for one in each}))
            raise SettingError(
                complaint(f"requests in one batch that ask for {words}", "the same", "let the server batch one request")
            )
        return each[0] if each else None

    def _denoisers(self) -> dict[str, Any]:
        names = getattr(self._pipeline, "_dit_modules", None) or ("transformer", "transformer_2")
        return {name: getattr(self._pipeline, name, None) for name in names}

    def _ended(self, trace: Trace) -> None:
        self._backend.traces.append(trace)
        if self._present is not None:
            name, asked = self._present
            LOG.info("bwcache: %s", line(trace, asked, f"request {name}"))

    # --- one step's prediction ----------------------------------------------------------------------------------------

    def predict_noise_maybe_with_cfg(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One step: of the conditioned branch, and where there is guidance of the other one."""
        said = _arguments(inner, args, kwargs)
        branches = {"cond": said.get("positive_kwargs"), "uncond": said.get("negative_kwargs")}
        return self._step(inner, branches, args, kwargs)

    def predict_noise_with_multi_branch_cfg(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One step, of several branches: each is a place of its own in the pipeline's list."""
        each = _arguments(inner, args, kwargs).get("branches_kwargs") or ()
        return self._step(inner, {f"branch {i}": one for i, one in enumerate(each)}, args, kwargs)

    def _step(self, inner: Callable[..., Any], branches: dict[str, Any], args: Any, kwargs: Any) -> Any:
        sampling = self._sampling
        if sampling is None:
            return inner(*args, **kwargs)
        sampling.go_on({name: one for name, one in branches.items() if one is not None})
        try:
            return inner(*args, **kwargs)
        finally:
            sampling.branches = {}

    def predict_noise(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One forward of a denoiser."""
        sampling = self._sampling
        if sampling is None:
            return inner(*args, **kwargs)
        with sampling.forward(kwargs):
            return inner(*args, **kwargs)

    # --- step mode ----------------------------------------------------------------------------------------------------

    def denoise_step(self, inner: Callable[..., Any], input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        """One step of several requests: those that ask for nothing together, each other one in its turn."""
        states = kwargs.get("states") or ()
        asking = {id(state): asked for state in states if (asked := self._taken(state)) is not None}
        if not asking and self._session is None:
            return inner(input_batch, *args, **kwargs)
        plain = [state for state in states if id(state) not in asking]
        with nullcontext() if self._session is None else self._session.aside():
            made = _rows(plain, inner(_batch(input_batch, plain), states=plain)) if plain else {}
        for state in states:
            if id(state) in asking:
                made |= _rows([state], self._in_turn(inner, input_batch, state, asking[id(state)]))
        parts = [part for state in states if (part := made[id(state)]) is not None]
        return torch.cat(parts) if len(parts) == len(states) else None  # else the pipeline was interrupted

    def _taken(self, state: Any) -> Asked | None:
        """What a request is sampled with; what cannot be is said once, and is computed from then on."""
        name = state.request_id
        if name in self._requests:
            return self._requests[name]
        if state.step_index > 0 or state.extra.get(KEY):  # it was looked at
            return None
        state.extra[KEY] = True
        try:
            asked = self._asked([state.sampling])
            if asked is None:
                return None
            if getattr(state, "chunk_num_steps", None) is not None:
                found = "a video that is made in chunks"
                raise AttachError(complaint(found, "one that is made as a whole", "ask for off"))
            self._take(state, asked)
        except Exception as error:  # of ours, before anything of this request ran
            _say(name, error)
            return None
        return self._requests[name]

    def _take(self, state: Any, asked: Asked) -> None:
        asked = fitted(self._denoisers(), asked)
        session = self._session or attached(self._denoisers(), asked, self._ended)
        try:
            with session.request(state.request_id, asked.policy):
                expect_known(session, levels(state.scheduler, state.timesteps))
        except BaseException:
            session.drop(state.request_id)
            if self._session is None:
                session.close()
            raise
        self._session, self._requests[state.request_id] = session, asked

    def _in_turn(self, inner: Callable[..., Any], input_batch: Any, state: Any, asked: Asked) -> Any:
        assert self._session is not None
        self._present = name, _ = state.request_id, asked
        with self._session.request(name, asked.policy):
            self._sampling = Sampling(name, self._session, lambda: state.scheduler, state)
            try:
                return inner(_batch(input_batch, [state]), states=[state])
            finally:
                self._sampling = None

    def keep_only(self, names: Container[str]) -> None:
        """Let go of all requests but these; the model itself too, where none of ours is left."""
        for name in [name for name in self._requests if name not in names]:
            self._present = name, self._requests.pop(name)
            if self._session is not None:
                self._session.drop(name)
        if not self._requests and self._session is not None:
            session, self._session = self._session, None
            session.close()


class Sampling:
    """One request, or several that go along together: which step it is at, and which branch a forward is of.

    Args:
        name: of the request.
        session: holds the denoisers.
        scheduler: finds the scheduler, which some pipelines make anew as they begin.
        state: of the request in step mode, which counts its own steps.
    """

    def __init__(self, name: str, session: bwcache.Session, scheduler: Callable[[], Any], state: Any = None) -> None:
        self.name, self.session, self.branches = name, session, dict[str, Any]()
        self._scheduler, self._state = scheduler, state
        self._levels: Levels | None = None
        self._steps = -1

    def go_on(self, branches: dict[str, Any]) -> None:
        """The next step begins: of these branches, each with what its forward will be given."""
        self.branches, self._steps = branches, self._steps + 1
        if self._levels is None:
            scheduler = self._scheduler()
            timesteps = getattr(scheduler, "timesteps", ()) if self._state is None else self._state.timesteps
            self._levels = levels(scheduler, timesteps)
            try:
                expect_known(self.session, self._levels)
            except BWCacheError as error:
                _say(self.name, error)

    def expect_told(self, pipeline: Any) -> None:
        """Say so where a pipeline made its predictions in another way than others do: nothing was told of them."""
        if self._steps < 0:
            found = f"{type(pipeline).__name__}, which does not predict by {' or '.join(BRANCHING)}"
            _say(self.name, AttachError(complaint(found, "a pipeline that does", "leave the request without bwcache")))

    @property
    def index(self) -> int | None:
        """Where the scheduler stands; what it does not say is counted."""
        if self._state is not None:
            return int(self._state.step_index)
        scheduler = self._scheduler()
        stands = getattr(scheduler, "step_index", None)
        if stands is None:
            stands = getattr(scheduler, "begin_index", None) or 0
            return stands if self._steps == 0 else None
        return int(stands)

    @contextmanager
    def forward(self, given: dict[str, Any]) -> Iterator[None]:
        """Around one forward with these arguments."""
        if self._levels is None or not self.branches:
            yield
            return
        name = next((name for name, own in self.branches.items() if _is_same(own, given)), None)
        with step(self.session, self._levels, self.index, name):
            yield


def _is_same(own: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return own.keys() == given.keys() and all(own[name] is given[name] for name in own)


def _arguments(inner: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    return dict(inspect.signature(inner).bind(*args, **kwargs).arguments)


def _batch(input_batch: Any, states: Sequence[Any]) -> Any:
    """A batch of some requests, made as vllm-omni makes it."""
    return type(input_batch).make_batch(list(states))


def _rows(states: Sequence[Any], made: torch.Tensor | None) -> dict[int, torch.Tensor | None]:
    """What was made, request by request."""
    if made is None:
        return {id(state): None for state in states}
    parts = made.split([state.latents.shape[0] for state in states])
    return {id(state): part for state, part in zip(states, parts, strict=True)}


def _say(name: str, error: Exception) -> None:
    ours = isinstance(error, BWCacheError)
    LOG.error("bwcache: request %s: everything is computed: %s", name, str(error), exc_info=not ours)
