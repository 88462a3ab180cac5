"""The real shapes of video models with random weights: time and memory depend on shapes alone.

Each is a diffusers pipeline of the real denoiser class and a scheduler, without text encoder, tokenizer and decoder: it
takes embeddings and returns latents. On a CPU the same classes are built tiny.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Geometry:
    """A model's shapes.

    Attributes:
        name: for people.
        build: the pipeline on a device, in a dtype.
        size: height, width and frames of the video.
        tokens, width: of one hidden state; the denoiser sees one video.
        blocks: how many the denoiser has here, and how many the real one has.
        inputs: what the pipeline takes in place of a prompt, on a device, in a dtype.
    """

    name: str
    build: Callable[[torch.device, torch.dtype], Any]
    size: tuple[int, int, int]
    tokens: int
    width: int
    blocks: int
    real_blocks: int
    inputs: Callable[[torch.device, torch.dtype], dict[str, Any]]

    def denoise(self, pipe: Any, inputs: dict[str, Any], steps: int) -> torch.Tensor:
        """Latents after so many steps, from noise that is always the same; one forward per step."""
        height, width, frames = self.size
        generator = torch.Generator(inputs["prompt_embeds"].device).manual_seed(0)
        made = pipe(
            height=height, width=width, num_frames=frames, num_inference_steps=steps,
            generator=generator, output_type="latent", return_dict=False, **inputs,
        )  # fmt: skip
        return made[0]


def wan(small: bool) -> Geometry:
    """Wan 2.1 1.3B at 480p, 81 frames (https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B-Diffusers)."""
    heads, ffn, blocks, text = (2, 64, 3, 16) if small else (12, 8960, 30, 512)
    head = 16 if small else 128
    size = (32, 32, 5) if small else (480, 832, 81)

    def build(device: torch.device, dtype: torch.dtype) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

        transformer = _random(
            lambda: WanTransformer3DModel(
                num_attention_heads=heads, attention_head_dim=head, ffn_dim=ffn, num_layers=blocks, text_dim=4096
            ),
            device,
            dtype,
        )
        pipe = WanPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            transformer=transformer,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def inputs(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        return {"prompt_embeds": _noise((1, text, 4096), device, dtype), "guidance_scale": 1.0}

    name = "Wan 2.1, tiny" if small else "Wan 2.1 1.3B, 480p, 81 frames"
    return Geometry(name, build, size, _tokens(size), heads * head, blocks, 30, inputs)


def hunyuan(small: bool, blocks: tuple[int, int] = (3, 6)) -> Geometry:
    """HunyuanVideo at 544p, 129 frames, with some of its 20 double and 40 single blocks: the others are like them.

    https://huggingface.co/hunyuanvideo-community/HunyuanVideo
    """
    double, single = (1, 2) if small else blocks
    heads, head, text = (2, 16, 8) if small else (24, 128, 256)
    size = (32, 32, 5) if small else (544, 960, 129)

    def build(device: torch.device, dtype: torch.dtype) -> Any:
        from diffusers import (
            FlowMatchEulerDiscreteScheduler,
            HunyuanVideoPipeline,
            HunyuanVideoTransformer3DModel,
        )

        axes = (4, 6, 6) if small else (16, 56, 56)
        transformer = _random(
            lambda: HunyuanVideoTransformer3DModel(
                num_attention_heads=heads,
                attention_head_dim=head,
                num_layers=double,
                num_single_layers=single,
                rope_axes_dim=axes,
            ),
            device,
            dtype,
        )
        _unmask(transformer)
        pipe = HunyuanVideoPipeline(
            text_encoder=None,
            tokenizer=None,
            transformer=transformer,
            vae=None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder_2=None,
            tokenizer_2=None,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def inputs(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "prompt_embeds": _noise((1, text, 4096), device, dtype),
            "pooled_prompt_embeds": _noise((1, 768), device, dtype),
            "prompt_attention_mask": torch.ones(1, text, device=device, dtype=dtype),
        }

    name = f"HunyuanVideo, 544p, 129 frames, {double} + {single} of 20 + 40 blocks"
    name = "HunyuanVideo, tiny" if small else name
    return Geometry(name, build, size, _tokens(size), heads * head, double + single, 60, inputs)


def _tokens(size: tuple[int, int, int]) -> int:
    """Video tokens: latents are 4 times fewer frames and 8 times smaller, and patches of 2 x 2 of them are tokens."""
    height, width, frames = size
    return ((frames - 1) // 4 + 1) * (height // 16) * (width // 16)


def _random(build: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A denoiser with torch's initial weights, made where it is to run."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        module = build().eval().requires_grad_(False)
    single = set(getattr(module, "_keep_in_fp32_modules", None) or ())  # as from_pretrained leaves them
    for name, weight in module.named_parameters():
        weight.data = weight.data.to(torch.float32 if single & set(name.split(".")) else dtype)
    return module


def _noise(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def _unmask(transformer: nn.Module) -> None:
    """Leaves out a mask that masks nothing, as the text fills all its places: flash attention takes none."""
    from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0

    class Unmasked(HunyuanVideoAttnProcessor2_0):
        def __call__(  # type: ignore[no-untyped-def]
            self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None
        ):
            return super().__call__(attn, hidden_states, encoder_hidden_states, None, image_rotary_emb)

    for module in transformer.modules():
        if isinstance(getattr(module, "processor", None), HunyuanVideoAttnProcessor2_0):
            module.processor = Unmasked()
