"""vllm-omni's own Wan pipeline in this process, on a CPU: its denoising loop and guidance, its Wan class with tiny
random weights, its scheduler, its selector of cache backends.

What it takes no part in is left out: the server around it, loading, text encoder and decoder.
"""

from __future__ import annotations

import importlib
import tempfile
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

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
    with tempfile.NamedTemporaryFile(delete=False) as meeting, config.set_current_vllm_config(settings):
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", init_method=f"file://{meeting.name}", world_size=1, rank=0)
        state.init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "gloo")
        state.initialize_model_parallel(backend="gloo")
    return settings


class Served(SimpleNamespace):
    """Settings: what nobody set is off, or 1 where it is a degree of something."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return 1 if name.endswith("_degree") else None


def around() -> Any:
    """The context that vllm-omni's modules run in."""
    settings = environment()
    config = Served(parallel_config=Served(sequence_parallel_size=1, mask_sp_padding=False, use_hsdp=False))
    return part("diffusion.forward_context").set_forward_context(settings, config)


def wan(seed: int = 0) -> Any:
    """A denoiser of vllm-omni's own class."""
    settings = environment()
    with torch.random.fork_rng(devices=[]), importlib.import_module("vllm.config").set_current_vllm_config(settings):
        torch.manual_seed(seed)
        with around():
            model = part("diffusion.models.wan2_2.wan2_2_transformer").WanTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=4,
                text_dim=8,
                freq_dim=16,
                ffn_dim=32,
                num_layers=3,
                rope_max_seq_len=32,
            )
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return model.eval().requires_grad_(False)


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
    made.transformer, made.transformer_2 = model or wan(), None
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
