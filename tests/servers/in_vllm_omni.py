"""vllm-omni's own Wan pipeline in this process, on a CPU: its denoising loop and guidance, its scheduler, its selector
of cache backends; and its classes of denoisers with tiny random weights.

What it takes no part in is left out: the server around it, loading, text encoder and decoder.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.servers.degrees import DEGREES

STEPS = 12


def part(path: str) -> Any:
    return importlib.import_module(f"vllm_omni.{path}")


@cache
def environment() -> Any:
    """Its parallel state, of one rank; the settings that its modules ask for."""
    config = importlib.import_module("vllm.config")
    settings = config.VllmConfig(device_config=config.DeviceConfig(device="cpu"))
    state = part("diffusion.distributed.parallel_state")
    attention = "vllm_omni.diffusion.attention.backends.sdpa.SDPABackend"  # its CPU platform names none
    kind = type(part("platforms").current_omni_platform)
    kind.get_diffusion_attn_backend_cls = classmethod(lambda *_, **__: attention)
    plain = part("diffusion.attention.backends.sdpa").SDPAImpl
    plain.forward = plain.forward_cuda  # torch's own attention, on any device
    (degrees,) = DEGREES
    PARALLEL.sequence_parallel_size = degrees.sequence
    PARALLEL.ulysses_degree, PARALLEL.ring_degree = degrees.ulysses, degrees.ring
    with tempfile.NamedTemporaryFile(delete=False) as alone, config.set_current_vllm_config(settings):
        meeting = f"file://{degrees.meeting or alone.name}"
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "gloo", init_method=meeting, world_size=degrees.count, rank=degrees.rank
            )
        state.init_distributed_environment(degrees.count, degrees.rank, meeting, degrees.rank, "gloo")
        state.initialize_model_parallel(
            tensor_parallel_size=degrees.tp,
            cfg_parallel_size=degrees.cfg,
            sequence_parallel_size=degrees.sequence,
            ulysses_degree=degrees.ulysses,
            ring_degree=degrees.ring,
            backend="gloo",
        )
    return settings


class Served(SimpleNamespace):
    """Settings: what nobody set is off, or 1 where it is a degree of something."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return 1 if name.endswith("_degree") else None


PARALLEL = Served(sequence_parallel_size=1, mask_sp_padding=False, use_hsdp=False)


def around() -> Any:
    """The context that vllm-omni's modules run in."""
    settings = environment()
    config = Served(parallel_config=PARALLEL)
    return part("diffusion.forward_context").set_forward_context(settings, config)


@dataclass(frozen=True)
class Kind:
    """One of its classes, as small as it can be built.

    Attributes:
        module: where it is, below `diffusion/models`.
        model: its name.
        sizes: what it is built with.
        settings: what it finds of the model in the server's settings.
        shape: of its latents.
        conditions: what a prompt is for it.
        blocks: where its last blocks are.
        more: how many channels enter beside the latents.
    """

    module: str
    model: str
    sizes: dict[str, Any]
    conditions: Callable[[torch.Generator], dict[str, Any]]
    shape: tuple[int, ...] = (1, 4, 4)
    settings: dict[str, Any] | None = None
    blocks: str = "single_transformer_blocks"
    more: int = 0

    def build(self, seed: int = 0) -> Any:
        """Return it with random weights."""
        settings, sizes = environment(), dict(self.sizes)
        if self.settings is not None:
            sizes["od_config"] = Served(
                parallel_config=PARALLEL, tf_model_config=SimpleNamespace(**self.settings), dtype=torch.float32
            )
        with (
            torch.random.fork_rng(devices=[]),
            importlib.import_module("vllm.config").set_current_vllm_config(settings),
        ):
            torch.manual_seed(seed)
            with around():
                model = getattr(part(f"diffusion.models.{self.module}"), self.model)(**sizes)
            for weight in model.parameters():
                torch.nn.init.normal_(weight, std=0.2)
        return model.eval().requires_grad_(False)


def text(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*(shape or (1, 3, 8)), generator=generator)


def places(axes: int) -> dict[str, Tensor]:
    return {"txt_ids": torch.zeros(3, axes), "img_ids": torch.zeros(4, axes)}


HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4}
PICTURE = {**HEADS, "num_layers": 2, "num_single_layers": 2, "joint_attention_dim": 8, "axes_dims_rope": (2, 2, 4)}
FLUX = Kind(
    "flux.flux_transformer",
    "FluxTransformer2DModel",
    {**PICTURE, "pooled_projection_dim": 8},
    lambda drawn: {
        **places(3),
        "encoder_hidden_states": text(drawn),
        "pooled_projections": text(drawn, 1, 8),
        "guidance": torch.ones(1),
    },
)
FLUX2 = Kind(
    "flux2.flux2_transformer",
    "Flux2Transformer2DModel",
    {**PICTURE, "timestep_guidance_channels": 8, "axes_dims_rope": (2, 2, 2, 2)},
    lambda drawn: {**places(4), "encoder_hidden_states": text(drawn), "guidance": torch.ones(1)},
    settings={},
)
KINDS = {
    "Wan": Kind(
        "wan2_2.wan2_2_transformer",
        "WanTransformer3DModel",
        {
            **HEADS,
            "attention_head_dim": 12,
            "out_channels": 4,
            "text_dim": 8,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 3,
            "rope_max_seq_len": 32,
        },
        lambda drawn: {"encoder_hidden_states": text(drawn)},
        shape=(1, 4, 2, 4, 4),
        blocks="blocks",
    ),
    "HunyuanVideo 1.5": Kind(
        "hunyuan_video.hunyuan_video_15_transformer",
        "HunyuanVideo15Transformer3DModel",
        {
            **HEADS,
            "in_channels": 9,
            "out_channels": 4,
            "num_layers": 3,
            "num_refiner_layers": 1,
            "text_embed_dim": 8,
            "text_embed_2_dim": 8,
            "image_embed_dim": 8,
            "rope_axes_dim": (2, 2, 4),
            "task_type": "t2v",
        },
        lambda drawn: {
            "encoder_hidden_states": text(drawn),
            "encoder_attention_mask": torch.ones(1, 3),
            "encoder_hidden_states_2": text(drawn),
            "encoder_attention_mask_2": torch.ones(1, 3),
            "image_embeds": torch.zeros(1, 2, 8),
        },
        shape=(1, 4, 2, 4, 4),
        settings={"num_layers": 3},
        blocks="transformer_blocks",
        more=5,
    ),
    "Flux": FLUX,
    "Flux Kontext": replace(FLUX, model="FluxKontextTransformer2DModel"),
    "Flux 2": FLUX2,
    "Flux 2 Klein": replace(FLUX2, module="flux2_klein.flux2_klein_transformer"),
    "LongCat-Image": Kind(
        "longcat_image.longcat_image_transformer",
        "LongCatImageTransformer2DModel",
        {},
        lambda drawn: {**places(3), "encoder_hidden_states": text(drawn)},
        settings={**PICTURE, "patch_size": 1, "pooled_projection_dim": 8, "axes_dims_rope": [2, 2, 4]},
    ),
    "Ovis-Image": Kind(
        "ovis_image.ovis_image_transformer",
        "OvisImageTransformer2DModel",
        {**PICTURE, "out_channels": 4},
        lambda drawn: {**places(3), "encoder_hidden_states": text(drawn)},
        settings={"num_layers": 2},
    ),
    "Qwen-Image": Kind(
        "qwen_image.qwen_image_transformer",
        "QwenImageTransformer2DModel",
        {
            **HEADS,
            "out_channels": 4,
            "patch_size": 1,
            "num_layers": 3,
            "joint_attention_dim": 8,
            "axes_dims_rope": (2, 2, 4),
        },
        lambda drawn: {
            "encoder_hidden_states": text(drawn),
            "encoder_hidden_states_mask": torch.ones(1, 3, dtype=torch.bool),
            "img_shapes": [[(1, 2, 2)]],
            "txt_seq_lens": [3],
        },
        settings={"num_layers": 3},
        blocks="transformer_blocks",
    ),
    "SD3": Kind(
        "sd3.sd3_transformer",
        "SD3Transformer2DModel",
        {},
        lambda drawn: {"encoder_hidden_states": text(drawn), "pooled_projections": text(drawn, 1, 8)},
        shape=(1, 4, 4, 4),
        settings={
            **HEADS,
            "out_channels": 4,
            "sample_size": 4,
            "num_layers": 3,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 8,
            "joint_attention_dim": 8,
            "patch_size": 2,
            "pos_embed_max_size": 4,
        },
        blocks="transformer_blocks",
    ),
}
WAN = KINDS["Wan"]


def looped(kind: Kind) -> Any:
    """A pipeline that samples with a denoiser of this kind as all of vllm-omni's do by their common class, and counts
    how often blocks ran."""
    base: Any = part("diffusion.distributed.cfg_parallel").CFGParallelMixin

    class Looped(base, nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.transformer = kind.build()
            with around():
                part("diffusion.registry")._apply_sequence_parallel_if_enabled(self, Served(parallel_config=PARALLEL))
            self.ran = 0
            getattr(self.transformer, kind.blocks)[1].register_forward_pre_hook(self.count)

        def count(self, *_: Any) -> None:
            self.ran += 1

        def forward(self, batch: Any) -> Tensor:
            self.ran = 0
            own: Any = self
            self.scheduler = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler(shift=3.0)
            self.scheduler.set_timesteps(STEPS)
            (request,) = batch.requests
            drawn = torch.Generator().manual_seed(request.seed)
            latents: Tensor = text(drawn, *kind.shape)
            texts = [kind.conditions(drawn) for _ in range(2)]
            beside = text(drawn, kind.shape[0], kind.more, *kind.shape[2:])
            with around():
                for timestep in self.scheduler.timesteps:
                    entered = torch.cat([latents, beside], 1) if kind.more else latents
                    given = {"hidden_states": entered, "timestep": timestep.expand(1) / 1000, "return_dict": False}
                    made = own.predict_noise_maybe_with_cfg(True, 3.0, *({**given, **each} for each in texts), False)
                    latents = own.scheduler_step_maybe_with_cfg(made, timestep, latents, True)
            return latents

    return Looped()


def pipeline(model: Any = None) -> Any:
    """A pipeline of vllm-omni's own class around a model, whose prompts are tensors that its seed draws."""
    own = part("diffusion.models.wan2_2.pipeline_wan2_2")

    base: Any = own.Wan22Pipeline

    class Tiny(base):
        def forward(self, batch: Any) -> Tensor:
            self.scheduler = own.build_wan_scheduler("unipc", 3.0)
            self.scheduler.set_timesteps(STEPS, device="cpu", shift=3.0)
            drawn = [noise(request.seed) for request in batch.requests]
            latents, prompt, negative = (torch.cat(some) for some in zip(*drawn, strict=True))
            with around():
                made: Tensor = self.diffuse(
                    latents, self.scheduler.timesteps, prompt, negative, 3.0, 3.0, None, torch.float32, {}
                )
            return made

    made = Tiny.__new__(Tiny)
    nn.Module.__init__(made)
    made.transformer, made.transformer_2 = model or WAN.build(), None
    made.scheduler, made.expand_timesteps, made.is_dmd = None, False, False
    made.set_progress_bar_config(disable=True)
    return made


def noise(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 4, 2, 4, 4, generator=generator)
    first, second = (torch.randn(1, 3, 8, generator=generator) for _ in range(2))
    return latents, first, second


def sampled(pipe: Any, *requests: Any) -> Tensor:
    """The final latents of some requests in one batch."""
    parameters, ids = [one.sampling_params for one in requests], [one.request_id for one in requests]
    batch = SimpleNamespace(requests=requests, request_ids=ids, sampling_params_list=parameters)
    with torch.inference_mode():
        made: Tensor = pipe.forward(batch)
    return made


class Stepped:
    """vllm-omni's own runner in step mode, with its own Qwen-Image pipeline: who comes is encoded by a seed.

    Args:
        backend: of caches; none: it has none.
    """

    def __init__(self, backend: Any = None) -> None:
        kind, own = KINDS["Qwen-Image"], part("diffusion.models.qwen_image.pipeline_qwen_image")
        base: Any = own.QwenImagePipeline

        class Tiny(base):
            def prepare_encode(self, state: Any, **_: Any) -> Any:
                drawn = torch.Generator().manual_seed(state.sampling.seed)
                state.latents = text(drawn, *kind.shape)
                made = [kind.conditions(drawn) for _ in range(2)]
                for name, own in zip(("", "negative_"), made, strict=True):
                    setattr(state, f"{name}prompt_embeds", own["encoder_hidden_states"])
                    setattr(state, f"{name}prompt_embeds_mask", own["encoder_hidden_states_mask"])
                    setattr(state, f"{name}txt_seq_lens", own["txt_seq_lens"])
                state.img_shapes, state.do_true_cfg = made[0]["img_shapes"], True
                state.scheduler = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler(shift=3.0)
                state.scheduler.set_timesteps(state.sampling.num_inference_steps)
                state.scheduler.set_begin_index(0)
                state.timesteps = state.scheduler.timesteps
                return state

            def post_decode(self, state: Any, **_: Any) -> Any:
                return part("diffusion.data").DiffusionOutput(output=state.latents)

        pipe = Tiny.__new__(Tiny)
        nn.Module.__init__(pipe)
        pipe.transformer, pipe.scheduler, pipe._interrupt, pipe._attention_kwargs = kind.build(), None, False, None
        runner = part("diffusion.worker.diffusion_model_runner").DiffusionModelRunner
        self.pipe, self.runner = pipe, runner.__new__(runner)
        named = "none" if backend is None else "bwcache"
        part("diffusion.cache.selector").get_cache_backend("none", None)  # as it does when it loads a model
        vars(self.runner).update(
            od_config=Served(parallel_config=PARALLEL, cache_backend=named, streaming_output=False),
            vllm_config=environment(),
            pipeline=pipe,
            cache_backend=backend,
            kv_transfer_manager=None,
            _interaction_coordinator=None,
            input_batch=None,
            state_cache={},
            device=torch.device("cpu"),
        )
        self.runner._maybe_recv_stage_payload = self.runner._maybe_send_stage_payload = lambda *_: None
        if backend is not None:
            backend.enable(pipe)

    def wave(self, new: dict[str, Any], names: Sequence[str], over: Sequence[str] = ()) -> dict[str, Tensor]:
        """One step of some requests, of those that are new too; return what is done of those that are over."""
        sched, data = part("diffusion.sched.interface"), importlib.import_module("vllm_omni.inputs.data")
        come = []
        for name, (said, seed, steps) in new.items():
            parameters = data.OmniDiffusionSamplingParams(
                seed=seed,
                num_inference_steps=steps,
                true_cfg_scale=3.0,
                extra_args={} if said is None else {"bwcache": said},
            )
            request = part("diffusion.request").OmniDiffusionRequest("a circle", parameters, name)
            come.append(sched.NewRequestData(name, request))
        cached = sched.CachedRequestData(list(names))
        wave = sched.DiffusionSchedulerOutput(0, come, cached, set(over), 0, 0)
        memory = {"validate_kv_metadata": True, "record_output_peak_memory": False}  # of which a CPU knows nothing
        made = self.runner._execute_stepwise(wave, **memory)
        outputs = [made.get_request_output(name) for name in (*new, *names)]
        return {one.request_id: one.result.output for one in outputs if one.finished}

    def all(self, requests: dict[str, Any], late: int = 0) -> dict[str, Tensor]:
        """Requests that come one after another, each so many waves after the last."""
        waiting, made, waves = dict(requests), dict[str, Tensor](), 0
        while waiting or self.runner.state_cache:
            here = list(self.runner.state_cache)
            ready = len(requests) if not late else waves // late + 1
            new = [name for i, name in enumerate(requests) if name in waiting and i < ready]
            made |= self.wave({name: waiting.pop(name) for name in new}, here)
            waves += 1
        return made
