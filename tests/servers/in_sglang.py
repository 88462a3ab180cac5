"""sglang's own denoising stage in this process, on a CPU: its loop, its scheduler, its classes with tiny weights.

What it takes no part in is left out: the server around it, loading, and the memory of several models on one device.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.servers.degrees import DEGREES

STEPS = 12


def part(path: str) -> Any:
    return importlib.import_module(f"sglang.multimodal_gen.{path}")


class Settings(SimpleNamespace):
    """The server's settings: what nobody set is off, or 1 where it is a degree of something."""

    def __getattr__(self, name: str) -> Any:
        return 1 if name.endswith("_degree") else None


@cache
def environment() -> Any:
    """Its parallel state; the settings that its modules ask for."""
    (degrees,) = DEGREES
    settings = Settings(attention_backend="torch_sdpa", component_attention_backends={}, disable_autocast=True)
    settings.enable_cfg_parallel = degrees.cfg > 1
    settings.pipeline_config = SimpleNamespace(
        get_classifier_free_guidance_scale=lambda batch, scale: scale,
        slice_noise_pred=lambda made, latents: made,
        postprocess_cfg_noise=lambda batch, made, cond: made,
        dit_config=SimpleNamespace(arch_config=SimpleNamespace(patch_size=(1, 2, 2))),
        task_type=part("configs.pipeline_configs.base").ModelTaskType.T2V,
    )
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")
    part("runtime.server_args").set_global_server_args(settings)
    rank = str(degrees.rank)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(degrees.count)}
    with tempfile.NamedTemporaryFile(delete=False) as meeting:
        part("runtime.distributed").maybe_init_distributed_environment_and_model_parallel(
            degrees.tp,
            degrees.sequence,
            degrees.cfg,
            degrees.ulysses,
            degrees.ring,
            distributed_init_method=f"file://{degrees.meeting or meeting.name}",
        )
    return settings


Conditions = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One of its classes, as small as it can be built.

    Attributes:
        module: where it is, below `models/dits`.
        model: its name.
        config: where its settings are, below `configs/models/dits`, and their names: of the model, of its sizes.
        sizes: what it is built with.
        shape: of its latents.
        conditions: what a prompt is for it.
        lists: where its blocks are.
    """

    module: str
    model: str
    config: tuple[str, str, str]
    sizes: dict[str, Any]
    shape: tuple[int, ...]
    conditions: Callable[[torch.Generator], Conditions]
    lists: tuple[str, ...] = ("transformer_blocks",)

    def build(self, seed: int = 0) -> Any:
        """Return it with random weights."""
        environment()
        name, config, sizes = self.config
        configs = part(f"configs.models.dits.{name}")
        made = getattr(configs, config)(arch_config=getattr(configs, sizes)(**self.sizes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(part(f"runtime.models.dits.{self.module}"), self.model)(config=made, hf_config={})
            for weight in model.parameters():
                torch.nn.init.normal_(weight, std=0.2)
        norms = part("runtime.layers.layernorm")
        norms.fuse_scale_shift_kernel = lambda x, scale, shift: x * (1 + scale) + shift
        for layer in model.modules():  # its kernels for CPUs come in a package of their own
            if hasattr(layer, "forward_native"):
                layer._forward_method = layer.forward_native
        return model.eval().requires_grad_(False)


def text(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*(shape or (1, 3, 8)), generator=generator)


def turns(tokens: int) -> tuple[Tensor, Tensor]:
    """The rotary embedding that turns nothing."""
    return torch.ones(tokens, 4), torch.zeros(tokens, 4)


HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4}
PICTURE = {"joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (2, 2, 4)}
SIZES = {**HEADS, "out_channels": 4, "num_layers": 3}
KINDS = {
    "Wan": Kind(
        "wanvideo",
        "WanTransformer3DModel",
        ("wanvideo", "WanVideoConfig", "WanVideoArchConfig"),
        {**SIZES, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 32},
        (1, 4, 2, 4, 4),
        lambda drawn: {"encoder_hidden_states": [text(drawn)]},
        lists=("blocks",),
    ),
    "HunyuanVideo": Kind(
        "hunyuanvideo",
        "HunyuanVideoTransformer3DModel",
        ("hunyuanvideo", "HunyuanVideoConfig", "HunyuanVideoArchConfig"),
        {
            **SIZES,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "rope_axes_dim": (2, 2, 4),
            "text_embed_dim": 8,
            "pooled_projection_dim": 8,
        },
        (1, 4, 2, 4, 4),
        lambda drawn: {"encoder_hidden_states": [text(drawn), text(drawn, 1, 8)]},
        lists=("double_blocks", "single_blocks"),
    ),
    "Flux": Kind(
        "flux",
        "FluxTransformer2DModel",
        ("flux", "FluxConfig", "FluxArchConfig"),
        {**SIZES, **PICTURE, "num_layers": 2, "num_single_layers": 2},
        (1, 4, 4),
        lambda drawn: {
            "encoder_hidden_states": text(drawn),
            "pooled_projections": text(drawn, 1, 8),
            "freqs_cis": turns(7),
        },
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    "LongCat-Image": Kind(
        "longcat_image",
        "LongCatImageTransformer2DModel",
        ("longcat_image", "LongCatImageDitConfig", "LongCatImageArchConfig"),
        {**HEADS, **PICTURE, "num_layers": 2, "num_single_layers": 2},
        (1, 4, 4),
        lambda drawn: {
            "encoder_hidden_states": text(drawn),
            "txt_ids": torch.zeros(3, 3),
            "img_ids": torch.zeros(4, 3),
        },
        lists=("transformer_blocks", "single_transformer_blocks"),
    ),
    "Qwen-Image": Kind(
        "qwen_image",
        "QwenImageTransformer2DModel",
        ("qwenimage", "QwenImageDitConfig", "QwenImageArchConfig"),
        {**SIZES, **PICTURE, "patch_size": 1},
        (1, 4, 4),
        lambda drawn: {
            "encoder_hidden_states": [text(drawn)],
            "img_shapes": [[(1, 2, 2)]],
            "txt_seq_lens": [3],
            "freqs_cis": (torch.cat(turns(4), -1), torch.cat(turns(3), -1)),
        },
    ),
    "SD3": Kind(
        "stablediffusion3",
        "SD3Transformer2DModel",
        ("stablediffusion3", "StableDiffusion3TransformerConfig", "StableDiffusion3TransformerArchConfig"),
        {
            **SIZES,
            "sample_size": 4,
            "joint_attention_dim": 8,
            "cross_attention_dim": 8,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 4,
        },
        (1, 4, 4, 4),
        lambda drawn: {"encoder_hidden_states": text(drawn), "pooled_projections": text(drawn, 1, 8)},
    ),
    "Z-Image": Kind(
        "zimage",
        "ZImageTransformer2DModel",
        ("zimage", "ZImageDitConfig", "ZImageArchConfig"),
        {
            "dim": 16,
            "num_layers": 3,
            "n_refiner_layers": 1,
            "num_attention_heads": 2,
            "n_kv_heads": 2,
            "in_channels": 4,
            "cap_feat_dim": 8,
            "axes_dims": (2, 2, 4),
            "axes_lens": (64, 64, 64),
        },
        (1, 4, 1, 4, 4),
        lambda drawn: {"encoder_hidden_states": [text(drawn, 3, 8)], "freqs_cis": (turns(32), turns(32))},
        lists=("layers",),
    ),
    "Sana": Kind(
        "sana",
        "SanaTransformer2DModel",
        ("sana", "SanaConfig", "SanaArchConfig"),
        {
            **SIZES,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 8,
            "patch_size": 1,
        },
        (1, 4, 4, 4),
        lambda drawn: {"encoder_hidden_states": text(drawn)},
    ),
}
WAN = KINDS["Wan"]


@dataclass
class Sample:
    """One request, as sglang's stage gets it."""

    stage: Any
    said: Any = None
    guided: bool = True
    steps: int = STEPS
    seed: int = 1
    extra: dict[str, Any] = field(default_factory=dict)
    kind: Kind = WAN

    def request(self) -> Any:
        parameters = part("configs.sample.sampling_params").SamplingParams(
            num_inference_steps=self.steps, guidance_scale=3.0 if self.guided else 1.0, negative_prompt="none"
        )
        batch = part("runtime.pipelines_core.schedule_batch").Req(sampling_params=parameters, request_id="1")
        batch.raw_latent_shape = self.kind.shape
        for name, value in self.extra.items():
            setattr(batch, name, value)
        if self.said is not None:
            batch.extra["diffusers_kwargs"] = {"bwcache": self.said}
        batch.do_classifier_free_guidance = self.guided
        return batch

    def run(self, batch: Any = None) -> tuple[Tensor, Any]:
        """Return the final latents, and the request."""
        settings, batch = environment(), batch or self.request()
        flow = part("runtime.models.schedulers.scheduling_flow_unipc_multistep").FlowUniPCMultistepScheduler(shift=3.0)
        flow.set_timesteps(self.steps, device="cpu")
        generator = torch.Generator().manual_seed(self.seed)
        latents = torch.randn(self.kind.shape, generator=generator)
        (degrees,) = DEGREES
        if degrees.sequence > 1:
            latents = latents.chunk(degrees.sequence, dim=2)[degrees.rank].contiguous()
        policy = part("runtime.distributed.cfg_policy").CFGPolicy()
        kwargs = [self.kind.conditions(generator) for _ in range(2)]
        context = part("runtime.pipelines_core.stages.denoising").DenoisingContext(
            scheduler=flow,
            extra_step_kwargs={},
            target_dtype=torch.float32,
            autocast_enabled=False,
            timesteps=flow.timesteps,
            num_inference_steps=self.steps,
            num_warmup_steps=0,
            image_kwargs={},
            pos_cond_kwargs=kwargs[0],
            neg_cond_kwargs=kwargs[1],
            latents=latents,
            boundary_timestep=None,
            z=None,
            reserved_frames_mask=None,
            seq_len=None,
            guidance=torch.tensor([1.0]),
            is_warmup=False,
            cfg_policy=policy.build(batch, {}, kwargs[0], kwargs[1]),
        )
        with torch.no_grad():
            self.stage._run_denoising_loop(context, batch, settings)
        return context.latents, batch


def stage(model: Any = None) -> Any:
    """A denoising stage around a model."""
    kind = part("runtime.pipelines_core.stages.denoising").DenoisingStage
    made = kind.__new__(kind)
    uses = SimpleNamespace(
        component_name_for_module=lambda module, phase: phase,
        begin_use=lambda use, module: None,
        finish_active_use=lambda *args: None,
        state=SimpleNamespace(stage_name="denoising"),
    )
    made.__dict__.update(
        server_args=environment(),
        transformer=model or WAN.build(),
        transformer_2=None,
        pipeline=None,
        _cache_dit_enabled=False,
        _extra_func_kwarg_names_cache={},
        _component_residency_manager=uses,
        attn_backend=SimpleNamespace(get_enum=lambda: None, get_builder_cls=lambda: None),
        profiler=None,
    )
    return made
