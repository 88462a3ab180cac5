"""What sglang and vllm-omni promise to their plugins, written anew: small, and without either of them.

`CONTRACT` says which functions there are and what they take; a test holds these modules to it, and, where one of the
real packages is installed, that package too: a release that moves a door fails there by name.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bwcache import Tuned
from bwcache.policies.tuned_file import TunedFile

SGLANG = "sglang.multimodal_gen.runtime."
OMNI = "vllm_omni.diffusion."
STEPS = 12
SHARES = tuple(1 - step / STEPS for step in range(STEPS + 1))
SHAPE = (1, 4, 2, 4, 4)

CONTRACT: dict[str, tuple[str, ...]] = {
    f"{SGLANG}platforms.plugins.HookRegistry.register": ("target", "hook", "hook_type"),
    f"{SGLANG}managers.forward_context.get_forward_context": (),
    f"{SGLANG}pipelines_core.stages.denoising.DenoisingStage._run_denoising_loop": (
        *("self", "ctx", "batch", "server_args"),
    ),
    f"{SGLANG}pipelines_core.stages.denoising.DenoisingStage._predict_noise": (
        *("self", "current_model", "latent_model_input", "timestep", "target_dtype", "guidance", "kwargs"),
    ),
    f"{SGLANG}pipelines_core.stages.denoising.DenoisingStage._run_denoising_step": ("self", "ctx", "step", "batch"),
    f"{SGLANG}pipelines_core.stages.denoising.DenoisingStage._predict_noise_with_cfg": (
        *("self", "current_model", "latent_model_input", "timestep"),
    ),
    f"{SGLANG}pipelines_core.composed_pipeline_base.ComposedPipelineBase.forward": ("self", "batch", "server_args"),
    f"{SGLANG}pipelines.diffusers_pipeline.DiffusersExecutionStage.forward": ("self", "batch", "server_args"),
    f"{OMNI}cache.selector.get_cache_backend": ("cache_backend", "cache_config"),
    f"{OMNI}sched.request_scheduler.build_request_batch_sampling_params_key": ("request",),
    f"{OMNI}cache.base.CacheBackend.enable": ("self", "pipeline"),
    f"{OMNI}cache.base.CacheBackend.refresh": ("self", "pipeline", "num_inference_steps", "verbose"),
    f"{OMNI}cache.base.CacheBackend.is_enabled": ("self",),
    f"{OMNI}worker.diffusion_model_runner.DiffusionModelRunner._execute_stepwise": ("self", "scheduler_output"),
    f"{OMNI}worker.diffusion_model_runner.DiffusionModelRunner._refresh_cache_for_requests": ("self", "reqs"),
    f"{OMNI}distributed.cfg_parallel.CFGParallelMixin.predict_noise_maybe_with_cfg": (
        *("self", "do_true_cfg", "true_cfg_scale", "positive_kwargs", "negative_kwargs"),
    ),
    f"{OMNI}distributed.cfg_parallel.CFGParallelMixin.predict_noise_with_multi_branch_cfg": (
        *("self", "do_true_cfg", "true_cfg_scale", "branches_kwargs"),
    ),
    f"{OMNI}worker.input_batch.InputBatch.make_batch": ("states",),
}
"""Functions that are relied upon, with their first arguments."""

FIELDS: dict[str, tuple[str, ...]] = {
    "sglang.multimodal_gen.configs.sample.sampling_params.SamplingParams": ("enable_teacache", "enable_spectrum"),
    f"{SGLANG}pipelines_core.composed_pipeline_base.ComposedPipelineBase": ("stages",),
    f"{SGLANG}pipelines_core.stages.base.PipelineStage": ("role_affinity",),
    f"{SGLANG}pipelines_core.schedule_batch.Req": (
        *("extra", "usage", "is_warmup", "is_cfg_negative", "sampling_params"),
    ),
    f"{SGLANG}pipelines_core.schedule_batch.OutputBatch": ("usage",),
    f"{SGLANG}pipelines_core.stages.denoising.DenoisingContext": (
        *("scheduler", "timesteps", "latents", "cfg_policy"),
    ),
    f"{SGLANG}distributed.cfg_policy.CFGPolicy": ("branches",),
    f"{SGLANG}distributed.cfg_policy.CFGBranch": ("is_conditional", "kwargs"),
    f"{SGLANG}managers.forward_context.ForwardContext": ("current_timestep",),
    f"{SGLANG}server_args.ServerArgs": ("enable_breakable_cuda_graph",),
    f"{SGLANG}entrypoints.openai.protocol.ImageGenerationsRequest": ("diffusers_kwargs",),
    f"{SGLANG}entrypoints.openai.protocol.VideoGenerationsRequest": ("diffusers_kwargs",),
    "vllm_omni.inputs.data.OmniDiffusionSamplingParams": ("extra_args",),
    f"{OMNI}data.OmniDiffusionConfig": ("cache_backend", "cache_config"),
    f"{OMNI}data.DiffusionCacheConfig": ("_extra_params",),
    f"{OMNI}worker.request_batch.DiffusionRequestBatch": ("requests", "request_ids", "sampling_params_list"),
    f"{OMNI}sched.interface.RequestBatchSamplingParamsKey": ("condition_key",),
    f"{OMNI}worker.utils.StepRequestState": (
        *("request_id", "sampling", "latents", "timesteps", "step_index", "scheduler", "extra", "chunk_num_steps"),
    ),
    "vllm_omni.entrypoints.openai.protocol.videos.VideoGenerationRequest": ("extra_params",),
    "vllm_omni.entrypoints.openai.protocol.images.ImageGenerationRequest": ("extra_params",),
}
"""What is read of the classes of both packages."""

GROUPS = {
    f"{SGLANG}platforms.plugins.GENERAL_PLUGINS_GROUP": "sglang.multimodal_gen.plugins",
    "vllm_omni.plugins.OMNI_DEFAULT_PLUGINS_GROUP": "vllm_omni.general_plugins",
}
"""Where each package says under which group of entry points it looks for plugins."""

RANKS = {
    f"{SGLANG}distributed.parallel_state": ("get_sp_group", "get_cfg_group", "get_tp_group"),
    f"{OMNI}distributed.parallel_state": ("get_sp_group", "get_cfg_group", "get_pp_group"),
    "vllm.distributed.parallel_state": ("get_tp_group",),
}
"""Where each package tells of its ranks."""


def arguments(path: str) -> tuple[str, ...]:
    """The names of what a function takes, whatever stands around it."""
    function = pkgutil.resolve_name(path)
    return tuple(inspect.signature(inspect.unwrap(function)).parameters)


class Block(nn.Linear):
    """One block."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return what goes on."""
        return hidden_states + torch.tanh(super().forward(hidden_states))


class Denoiser(nn.Module):
    """A stack of blocks that counts its calls."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.ModuleList(Block(4, 4) for _ in range(3))
        self.requires_grad_(False)
        self.calls = 0

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Any, guidance: Any = None, **_: Any
    ) -> Any:
        """Return what is predicted."""
        self.calls += 1
        text = encoder_hidden_states[0] if isinstance(encoder_hidden_states, list) else encoder_hidden_states
        x = hidden_states.movedim(1, -1) + timestep.view(-1, 1, 1, 1, 1) + text.mean(1)[:, None, None, None]
        for block in self.blocks:
            x = block(x)
        return self.handed((x - hidden_states.movedim(1, -1)).movedim(-1, 1))

    def handed(self, made: Tensor) -> Any:
        """How it is handed on."""
        return made


class Scheduler:
    """Euler in flow matching, which counts its steps."""

    def __init__(self, steps: int = STEPS) -> None:
        self.config = SimpleNamespace(prediction_type="flow_prediction", num_train_timesteps=1000)
        self.order, self.begin_index = 1, 0
        self.step_index: int | None = None
        self.set_timesteps(steps)

    def set_timesteps(self, steps: int) -> None:
        """Begin anew."""
        self.sigmas = torch.tensor([1 - step / steps for step in range(steps + 1)])
        self.timesteps, self.step_index = 1000 * self.sigmas[:-1], None

    def step(self, made: Tensor, timestep: Any, latents: Tensor) -> Tensor:
        """Return the latents after a step."""
        place = self.step_index or 0
        self.step_index = place + 1
        moved: Tensor = latents + (self.sigmas[place + 1] - self.sigmas[place]) * made
        return moved


def scheduler(home: str, name: str = "FlowUniPCMultistepScheduler", steps: int = STEPS) -> Any:
    """A scheduler of a name that is known, or not."""
    return type(name, (Scheduler,), {"__module__": home})(steps)


def noise(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, a prompt and a negative one."""
    generator = torch.Generator().manual_seed(seed)
    texts = (torch.randn(1, 3, 4, generator=generator) for _ in range(2))
    first, second = texts
    return torch.randn(SHAPE, generator=generator), first, second


def module(path: str, **contents: Any) -> ModuleType:
    """A module in `sys.modules`, with those above it."""
    made = ModuleType(path)
    vars(made).update(contents)
    for name in [name for name, thing in contents.items() if isinstance(thing, type)]:
        contents[name].__module__ = path
    above, _, own = path.rpartition(".")
    sys.modules[path] = made
    if above:
        if above not in sys.modules:
            module(above)
        setattr(sys.modules[above], own, made)
    made.__path__ = []
    return made


@contextmanager
def installed(*build: Callable[[], None]) -> Iterator[None]:
    """The look-alikes in the place of the packages; what was there comes back."""
    names = ("sglang", "vllm_omni")
    before = {path: found for path, found in sys.modules.items() if path.partition(".")[0] in names}
    for path in before:
        del sys.modules[path]
    try:
        for each in build:
            each()
        importlib.invalidate_caches()
        yield
    finally:
        for path in [path for path in sys.modules if path.partition(".")[0] in names]:
            del sys.modules[path]
        sys.modules.update(before)


def plan_for_flux(folder: Path) -> str:
    """The path of a plan that `bwcache tune` could have written for another model."""
    policy = Tuned((0, 2), ((1.0,), (1.0,)), (1.0, 0.75, 0.5, 0.25, 0.0), "FluxTransformer2DModel")
    made_for = {"scheduler": {"class": "UniPCMultistepScheduler", "predicts": "flow"}}
    content = TunedFile(policy, made_for, {"psnr": 35.2}, {"expected": 3.0}).to_json()
    (folder / "plan.json").write_text(json.dumps(content))
    return str(folder / "plan.json")


# --- sglang ---------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    """What a stage is given."""

    extra: dict[str, Any] = field(default_factory=dict)
    request_id: str = "1"
    is_warmup: bool = False
    is_cfg_negative: bool = False
    enable_teacache: bool = False
    enable_spectrum: bool = False
    usage: Any = None
    seed: int = 1
    steps: int = STEPS

    @classmethod
    def saying(cls, said: Any, **values: Any) -> Request:
        """A request that says something of bwcache."""
        return cls({} if said is None else {"diffusers_kwargs": {"bwcache": said}}, **values)


def sglang() -> None:
    """Put it there."""

    class HookType:
        AROUND = "around"

    class HookRegistry:
        hooks: list[tuple[str, Any]] = []  # noqa: RUF012

        @classmethod
        def register(cls, target: str, hook: Any, hook_type: Any = HookType.AROUND, *, source: Any = None) -> None:
            cls.hooks.append((target, hook))

        @classmethod
        def apply_hooks(cls) -> None:
            for target, hook in cls.hooks:
                owner, _, name = target.rpartition(".")
                holder = pkgutil.resolve_name(owner)
                setattr(holder, name, _around(getattr(holder, name), hook))

    state = SimpleNamespace(current=None)

    @contextmanager
    def set_forward_context(current_timestep: int) -> Iterator[None]:
        before, state.current = state.current, SimpleNamespace(current_timestep=current_timestep)
        yield
        state.current = before

    def get_forward_context() -> Any:
        assert state.current is not None
        return state.current

    class DenoisingStage:
        def __init__(self, transformer: Any, transformer_2: Any = None, boundary: float = 0.0) -> None:
            self.transformer, self.transformer_2, self.boundary = transformer, transformer_2, boundary
            self.server_args = SimpleNamespace(enable_breakable_cuda_graph=False)
            self._cache_dit_enabled = False

        def _run_denoising_loop(
            self, ctx: Any, batch: Any, server_args: Any, *, collect_trajectory: bool = True
        ) -> Any:
            for index, timestep in enumerate(ctx.timesteps):
                late = self.transformer_2 is not None and timestep < self.boundary
                made = []
                for branch in ctx.cfg_policy.branches:
                    batch.is_cfg_negative = not branch.is_conditional
                    with set_forward_context(index):
                        model = self.transformer_2 if late else self.transformer
                        made.append(
                            self._predict_noise(
                                model, ctx.latents, timestep.expand(1) / 1000, None, None, **branch.kwargs
                            )
                        )
                guided = made[-1] + 3 * (made[0] - made[-1])
                ctx.latents = ctx.scheduler.step(guided, timestep, ctx.latents)
            return ctx.timesteps

        def _run_denoising_step(self, ctx: Any, step: Any, batch: Any, server_args: Any) -> None: ...

        def _predict_noise_with_cfg(self, current_model: Any, latent_model_input: Any, timestep: Any) -> Any: ...

        def _predict_noise(
            self, current_model: Any, latent_model_input: Any, timestep: Any, target_dtype: Any, guidance: Any,
            **kwargs: Any,
        ) -> Any:  # fmt: skip
            return current_model(hidden_states=latent_model_input, timestep=timestep, **kwargs)

    class DiffusersExecutionStage:
        def __init__(self, pipe: Any) -> None:
            self.diffusers_pipe = pipe
            self.seen: list[Any] = []

        def forward(self, batch: Any, server_args: Any) -> Any:
            self.seen.append(batch.extra["diffusers_kwargs"])
            batch.output = self.diffusers_pipe(**batch.extra["call"])
            return batch

    class ComposedPipelineBase:
        def __init__(self, stage: Any, role: str = "denoiser") -> None:
            self.stage, self.stages = stage, [SimpleNamespace(role_affinity=SimpleNamespace(value=role))]

        def forward(self, batch: Any, server_args: Any) -> Any:
            self.stage(batch)
            return SimpleNamespace(usage=batch.usage)

    module(f"{SGLANG}pipelines_core.composed_pipeline_base", ComposedPipelineBase=ComposedPipelineBase)
    module(f"{SGLANG}platforms.plugins", HookRegistry=HookRegistry, HookType=HookType)
    contexts = {"get_forward_context": get_forward_context, "set_forward_context": set_forward_context}
    module(f"{SGLANG}managers.forward_context", **contexts)
    module(f"{SGLANG}pipelines_core.stages.denoising", DenoisingStage=DenoisingStage)
    module(f"{SGLANG}pipelines.diffusers_pipeline", DiffusersExecutionStage=DiffusersExecutionStage)
    wan = type("WanTransformer3DModel", (Denoiser,), {})
    module(f"{SGLANG}models.dits.wanvideo", WanTransformer3DModel=wan)


def _around(inner: Any, hook: Any) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        return hook(inner, *args, **kwargs)

    called.__wrapped__ = inner  # type: ignore[attr-defined]
    return called


def loop(request: Request, guided: bool = True, flow: Any = None, branches: Any = None) -> Any:
    """The context of a denoising loop of this request."""
    latents, *texts = noise(request.seed)
    kinds = branches or ([True, False] if guided else [True])
    flow = flow or scheduler(f"{SGLANG}models.schedulers.unipc", steps=request.steps)
    made = [
        SimpleNamespace(is_conditional=kind, kwargs={"encoder_hidden_states": [text]})
        for kind, text in zip(kinds, [*texts, *texts], strict=False)
    ]
    policy = SimpleNamespace(branches=made)
    return SimpleNamespace(latents=latents, scheduler=flow, timesteps=flow.timesteps, cfg_policy=policy)


# --- vllm-omni ------------------------------------------------------------------------------------------------------


@dataclass
class Asking:
    """One request, as the runner has it in request mode."""

    request_id: str
    said: Any = None
    seed: int = 1

    @property
    def sampling_params(self) -> Any:
        """What it asks for."""
        return SimpleNamespace(extra_args={} if self.said is None else {"bwcache": self.said})


@dataclass(eq=False)
class State:
    """One request, as the runner has it in step mode."""

    request_id: str
    said: Any = None
    seed: int = 1
    steps: int = STEPS
    step_index: int = 0
    chunk_num_steps: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sampling = Asking(self.request_id, self.said).sampling_params
        self.latents, self.prompt_embeds, self.negative_prompt_embeds = noise(self.seed)
        self.scheduler = scheduler(f"{OMNI}models.schedulers.unipc", steps=self.steps)
        self.timesteps = self.scheduler.timesteps

    @property
    def done(self) -> bool:
        """Whether its last step is over."""
        return self.step_index >= self.steps


def omni() -> None:
    """Put it there."""

    class CacheBackend:
        backends: list[type] = []  # noqa: RUF012

        @classmethod
        def register(cls, kind: type) -> None:
            cls.backends.append(kind)

        def enable(self, pipeline: Any) -> None: ...

        def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None: ...

        def is_enabled(self) -> bool: ...  # type: ignore[empty-body]

    def get_cache_backend(cache_backend: Any, cache_config: Any) -> Any:
        if cache_backend in (None, "none"):
            return None
        raise ValueError(f"Unsupported cache backend: {cache_backend}.")

    class CFGParallelMixin:
        def predict_noise_maybe_with_cfg(
            self, do_true_cfg: bool, true_cfg_scale: float, positive_kwargs: Any, negative_kwargs: Any,
            cfg_normalize: bool = True,
        ) -> Any:  # fmt: skip
            first = self.predict_noise(**positive_kwargs)
            if not do_true_cfg:
                return first
            second = self.predict_noise(**negative_kwargs)
            return second + true_cfg_scale * (first - second)

        def predict_noise_with_multi_branch_cfg(
            self, do_true_cfg: bool, true_cfg_scale: float, branches_kwargs: Any
        ) -> Any:
            first, *others = [self.predict_noise(**one) for one in branches_kwargs]
            return first + true_cfg_scale * sum(first - other for other in others)

        def predict_noise(self, current_model: Any = None, **kwargs: Any) -> Any:
            return (current_model or self.transformer)(**kwargs)[0]  # type: ignore[attr-defined]

    class InputBatch:
        def __init__(self, states: Any) -> None:
            self.states = list(states)
            self.latents = torch.cat([state.latents for state in states])
            self.prompts = torch.cat([state.prompt_embeds for state in states])
            self.negative = torch.cat([state.negative_prompt_embeds for state in states])
            self.timesteps = torch.stack([state.timesteps[state.step_index] for state in states])

        @classmethod
        def make_batch(cls, states: Any, cached_batch: Any = None) -> Any:
            return cls(states)

    class Pipeline(CFGParallelMixin, nn.Module):
        """Wan's, in both modes."""

        def __init__(self, transformer: Any, transformer_2: Any = None, branches: int = 2) -> None:
            super().__init__()
            self.transformer, self.transformer_2, self.branches = transformer, transformer_2, branches
            self.scheduler: Any = None
            self.own_loop = False

        def forward(self, batch: Any) -> Any:
            self.scheduler = scheduler(f"{OMNI}models.schedulers.unipc")
            each = [noise(request.seed) for request in batch.requests]
            latents, prompts, negative = (torch.cat(some) for some in zip(*each, strict=True))
            for timestep in self.scheduler.timesteps:
                given = {"hidden_states": latents, "timestep": timestep.expand(len(latents)) / 1000}
                late = self.transformer_2 is not None and timestep < 500
                given["current_model"] = self.transformer_2 if late else self.transformer
                positive, other = ({**given, "encoder_hidden_states": text} for text in (prompts, negative))
                if self.own_loop:
                    made = self.transformer(**{k: v for k, v in positive.items() if k != "current_model"})[0]
                elif self.branches > 2:
                    third = {**given, "encoder_hidden_states": negative + 1}
                    made = self.predict_noise_with_multi_branch_cfg(True, 1.0, [positive, other, third])
                else:
                    made = self.predict_noise_maybe_with_cfg(self.branches > 1, 3.0, positive, other)
                latents = self.scheduler.step(made, timestep, latents)
            return latents

        def denoise_step(self, input_batch: Any, states: Any = None) -> Any:
            given = {"hidden_states": input_batch.latents, "timestep": input_batch.timesteps / 1000}
            texts = (input_batch.prompts, input_batch.negative)
            positive, other = ({**given, "encoder_hidden_states": text} for text in texts)
            return self.predict_noise_maybe_with_cfg(True, 3.0, positive, other)

        def step_scheduler(self, state: Any, made: Any) -> None:
            state.latents = state.scheduler.step(made, None, state.latents)
            state.step_index += 1

    class DiffusionModelRunner:
        def __init__(self, pipeline: Any, cache_backend: Any, cache_config: Any, mode: str = "request") -> None:
            self.od_config = SimpleNamespace(cache_backend=cache_backend, cache_config=cache_config)
            self.pipeline, self.state_cache = pipeline, dict[str, Any]()
            own = sys.modules[f"{OMNI}worker.diffusion_model_runner"]
            self.cache_backend = own.get_cache_backend(cache_backend, cache_config)
            if self.cache_backend is not None:
                self.cache_backend.enable(pipeline)

        def execute(self, *requests: Any) -> Any:
            self._refresh_cache_for_requests(list(requests), od_config=self.od_config)
            parameters = [request.sampling_params for request in requests]
            ids = [request.request_id for request in requests]
            batch = SimpleNamespace(requests=requests, request_ids=ids, sampling_params_list=parameters)
            with torch.inference_mode():
                return self.pipeline.forward(batch)

        def _refresh_cache_for_requests(self, reqs: Any, *, od_config: Any) -> None:
            if self.cache_backend is not None and self.cache_backend.is_enabled():
                self.cache_backend.refresh(self.pipeline, STEPS)

        def _execute_stepwise(self, scheduler_output: Any, **_: Any) -> dict[str, Tensor]:
            """One step of some requests by name; what is done of those that are over."""
            if self.od_config.cache_backend not in (None, "none"):
                raise ValueError("Step mode does not support cache_backend yet.")
            states = [self.state_cache[name] for name in scheduler_output]
            with torch.inference_mode():
                made = self.pipeline.denoise_step(InputBatch.make_batch(states), states=states)
                for state, own in zip(states, made.split([len(state.latents) for state in states]), strict=True):
                    self.pipeline.step_scheduler(state, own)
            over = {state.request_id: state.latents for state in states if state.done}
            for name in over:
                del self.state_cache[name]
            return over

    @dataclass(frozen=True)
    class Key:
        steps: int
        condition_key: Any = None

    def build_request_batch_sampling_params_key(request: Any) -> Any:
        return Key(STEPS)

    admits = {"build_request_batch_sampling_params_key": build_request_batch_sampling_params_key}
    module(f"{OMNI}sched.request_scheduler", **admits)
    module(f"{OMNI}cache.base", CacheBackend=CacheBackend)
    module(f"{OMNI}cache.selector", get_cache_backend=get_cache_backend, CacheBackend=CacheBackend)
    module(f"{OMNI}distributed.cfg_parallel", CFGParallelMixin=CFGParallelMixin)
    module(f"{OMNI}worker.input_batch", InputBatch=InputBatch)
    both = {"get_cache_backend": get_cache_backend, "DiffusionModelRunner": DiffusionModelRunner}
    module(f"{OMNI}worker.diffusion_model_runner", **both)
    wan = type("WanTransformer3DModel", (Denoiser,), {"handed": lambda self, made: (made,)})
    module(f"{OMNI}models.wan2_2.wan2_2_transformer", WanTransformer3DModel=wan)
    module(f"{OMNI}models.wan2_2.pipeline_wan2_2", Wan22Pipeline=Pipeline)
