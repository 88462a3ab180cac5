"""Real diffusers classes with tiny random weights: the supported denoisers and pipelines, seconds to build and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)

from bwcache import Decision, Last, Observation, Policy, Predictor, compute, reuse
from bwcache.models import BlockStack, Tap


def seeded(build: Callable[[], Any]) -> Any:
    """The module that `build` makes, always with the same weights, ready to sample."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval().requires_grad_(False)


def wan_transformer(layers: int = 4, model: type = WanTransformer3DModel) -> Any:
    return seeded(
        lambda: model(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=8,
            freq_dim=16,
            ffn_dim=32,
            num_layers=layers,
            rope_max_seq_len=32,
        )
    )


def wan_vae() -> AutoencoderKLWan:
    return seeded(
        lambda: AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )


def wan(scheduler: Any = None, experts: int = 1, layers: int = 4) -> WanPipeline:
    """Wan 2.1, or 2.2 with a second expert below timestep 500."""
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=wan_transformer(layers),
        transformer_2=wan_transformer(layers) if experts == 2 else None,
        boundary_ratio=0.5 if experts == 2 else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan_video_to_video(scheduler: Any = None) -> WanVideoToVideoPipeline:
    """A pipeline that names no branch and starts in the middle of its schedule."""
    pipe = WanVideoToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=wan_transformer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cogvideox(scheduler: Any = None) -> CogVideoXPipeline:
    transformer = seeded(
        lambda: CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=4,
            text_embed_dim=16,
            num_layers=4,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=8,
        )
    )
    vae = seeded(
        lambda: AutoencoderKLCogVideoX(
            in_channels=3,
            out_channels=3,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        )
    )
    return CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=scheduler or CogVideoXDDIMScheduler(),
    )


def ltx() -> LTXPipeline:
    transformer = seeded(
        lambda: LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=4,
            caption_channels=32,
        )
    )
    vae = seeded(
        lambda: AutoencoderKLLTXVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False, False, False, False, False),
            upsample_residual=(False, False, False, False),
            upsample_factor=(1, 1, 1, 1),
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        )
    )
    return LTXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def mochi() -> MochiPipeline:
    transformer = seeded(
        lambda: MochiTransformer3DModel(
            patch_size=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=4,
            pooled_projection_dim=16,
            in_channels=12,
            out_channels=None,
            qk_norm="rms_norm",
            text_embed_dim=32,
            time_embed_dim=4,
            activation_fn="swiglu",
            max_sequence_length=16,
        )
    )
    vae = seeded(
        lambda: AutoencoderKLMochi(
            latent_channels=12,
            out_channels=3,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        )
    )
    return MochiPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


def hunyuan() -> HunyuanVideoPipeline:
    transformer = seeded(
        lambda: HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=2,
            num_single_layers=2,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
        )
    )
    vae = seeded(
        lambda: AutoencoderKLHunyuanVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            act_fn="silu",
            norm_num_groups=4,
            scaling_factor=0.476986,
            spatial_compression_ratio=8,
            temporal_compression_ratio=4,
            mid_block_add_attention=True,
        )
    )
    return HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Case:
    """A pipeline and how it is called; `branches` in the order of their first forward."""

    name: str
    build: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    branches: tuple[str, ...] = ("cond", "uncond")

    def run(self, pipe: Any, seed: int = 0, **changes: Any) -> torch.Tensor:
        """The latents that the pipeline makes from this seed."""
        call = {"num_inference_steps": 10, "output_type": "latent", "return_dict": False, **self.call, **changes}
        pipe.set_progress_bar_config(disable=True)
        return pipe(generator=torch.Generator().manual_seed(seed), **call)[0]


def _text(tokens: int, width: int) -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": noise(1, tokens, width, seed=1),
        "negative_prompt_embeds": noise(1, tokens, width, seed=2),
    }


def _masks(tokens: int) -> dict[str, torch.Tensor]:
    ones = torch.ones(1, tokens)
    return {"prompt_attention_mask": ones, "negative_prompt_attention_mask": ones}


_SMALL = {"height": 16, "width": 16, "num_frames": 5}

CASES: tuple[Case, ...] = (
    Case("wan", wan, {**_SMALL, "height": 32, "width": 32, "guidance_scale": 4.0, **_text(6, 8)}),
    Case(
        "wan_two_experts",
        lambda: wan(experts=2),
        {**_SMALL, "height": 32, "width": 32, "guidance_scale": 4.0, **_text(6, 8)},
    ),
    Case(
        "wan_unguided",
        wan,
        {**_SMALL, "height": 32, "width": 32, "guidance_scale": 1.0, "prompt_embeds": noise(1, 6, 8, seed=1)},
        ("cond",),
    ),
    Case("cogvideox", cogvideox, {**_SMALL, "guidance_scale": 6.0, **_text(8, 16)}, ("cond_uncond",)),
    Case(
        "ltx",
        ltx,
        {**_SMALL, "height": 32, "width": 32, "num_frames": 9, "guidance_scale": 3.0, **_text(8, 32)}
        | {key: mask.long() for key, mask in _masks(8).items()},
        ("cond_uncond",),
    ),
    Case(
        "mochi",
        mochi,
        {**_SMALL, "num_frames": 7, "guidance_scale": 4.5, **_text(16, 32)}
        | {key: mask.bool() for key, mask in _masks(16).items()},
        ("cond_uncond",),
    ),
    Case(
        "hunyuan",
        hunyuan,
        {
            **_SMALL,
            "guidance_scale": 6.0,
            "prompt_embeds": noise(1, 8, 16, seed=1),
            "pooled_prompt_embeds": noise(1, 8, seed=3),
            "prompt_attention_mask": torch.ones(1, 8),
        },
        ("cond",),
    ),
)


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

BY_NAME = {case.name: case for case in CASES}

WAN = BY_NAME["wan"]

VIDEO_TO_VIDEO = Case(
    "wan_video_to_video",
    wan_video_to_video,
    {
        "height": 32,
        "width": 32,
        "guidance_scale": 4.0,
        "strength": 0.8,
        "latents": noise(1, 4, 2, 4, 4, seed=4),
        **_text(6, 8),
    },
    ("call0", "call1"),
)


@dataclass(frozen=True)
class Scripted(Policy[None]):
    """Reuses in exactly these steps, and measures at every block."""

    reused: frozenset[int] = frozenset()
    predictor: Predictor = field(default_factory=Last)
    share: float | None = None

    @property
    def feature_predictor(self) -> Predictor:
        return self.predictor

    @property
    def tap_share(self) -> float | None:
        return self.share

    @property
    def may_reuse(self) -> bool:
        return bool(self.reused)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        return tuple(stack.tap(i) for i in range(len(stack.blocks)))

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        return reuse("as written") if observation.step.index in self.reused else compute("as written")
