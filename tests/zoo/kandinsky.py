"""Kandinsky 5 and 6."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from tests.newer import (
    Kandinsky5I2IPipeline,
    Kandinsky5I2VPipeline,
    Kandinsky5T2IPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    Kandinsky6SRPipeline,
    Kandinsky6SRTransformer3DModel,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    MMAudioVAE,
)
from tests.tiny import hunyuan
from tests.zoo.flux import picture
from tests.zoo.kinds import Model, Pipeline, noise, seeded


def _stirred(build: Any) -> Any:
    """Without what starts as zero: the gates of a fresh Kandinsky close every block."""

    def stirred() -> Any:
        made = build()
        for name, parameter in made.named_parameters():
            if "modulation" in name:
                parameter.data.normal_(std=0.2)
        return made

    return seeded(stirred)


def kandinsky5_transformer(**changes: Any) -> Any:
    config = {
        "in_visual_dim": 4,
        "in_text_dim": 16,
        "in_text_dim2": 8,
        "time_dim": 16,
        "out_visual_dim": 4,
        "patch_size": (1, 2, 2),
        "model_dim": 24,
        "ff_dim": 32,
        "num_text_blocks": 1,
        "num_visual_blocks": 3,
        "axes_dims": (4, 4, 4),
    }
    return _stirred(lambda: Kandinsky5Transformer3DModel(**{**config, **changes}))


def _k5_inputs(share: float, channels: int = 4) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 2, 4, 4, channels),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "timestep": torch.tensor([1000 * (1 - share)]),
        "pooled_projections": noise(1, 8, seed=2),
        "visual_rope_pos": [torch.arange(2), torch.arange(2), torch.arange(2)],
        "text_rope_pos": torch.arange(6),
        "scale_factor": (1.0, 2.0, 2.0),
    }


def kandinsky6_transformer(**changes: Any) -> Any:
    config = {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": 16,
        "in_text_dim2": 8,
        "time_dim": 16,
        "model_dim": 24,
        "ff_dim": 32,
        "num_text_blocks": 1,
        "num_visual_blocks": 3,
        "axes_dims": (4, 4, 4),
        "in_audio_dim": 6,
        "out_audio_dim": 6,
        "ca_rope": False,
        "cross_gates": True,
        "fix_modulation": True,
        "text_token_padding": True,
        "visual_token_type_num_embeddings": 2,
    }
    return _stirred(lambda: Kandinsky6Transformer3DModel(**{**config, **changes}))


def _k6_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 2, 4, 4, 9),
        "audio_hidden_states": noise(1, 5, 6, seed=3),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "pooled_projections": noise(1, 8, seed=2),
        "timestep": torch.tensor([1000 * (1 - share)]),
        "encoder_attention_mask": torch.ones(1, 6, dtype=torch.bool),
    }


def kandinsky6_sr_transformer() -> Any:
    return _stirred(
        lambda: Kandinsky6SRTransformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_visual_blocks=3,
            axes_dims=(4, 6, 6),
            nabla_window=(3, 3, 3),
            tile_sizes=((16, 16),),
        )
    )


MODELS = (
    Model("Kandinsky5Transformer3DModel", kandinsky5_transformer, _k5_inputs, guidance="separate"),
    # a bare tensor comes back, and the video brings a given frame and its mask along
    Model(
        "Kandinsky5Transformer3DModel I2V",
        lambda: kandinsky5_transformer(visual_cond=True),
        lambda share: {**_k5_inputs(share, channels=9), "return_dict": False},
        guidance="separate",
    ),
    Model("Kandinsky6Transformer3DModel", kandinsky6_transformer, _k6_inputs, guidance="separate"),
    # the given frame stands behind the others and has the place of the first
    Model(
        "Kandinsky6Transformer3DModel I2V",
        kandinsky6_transformer,
        lambda share: {
            **_k6_inputs(share),
            "hidden_states": noise(1, 3, 4, 4, 9),
            "visual_rope_pos": (torch.tensor([0, 1, 0]), torch.arange(2), torch.arange(2)),
            "visual_token_type_ids": torch.tensor([[0, 0, 1]]),
        },
        guidance="separate",
    ),
    Model(
        "Kandinsky6SRTransformer3DModel",
        kandinsky6_sr_transformer,
        lambda share: {"hidden_states": noise(1, 2, 8, 8, 9), "timestep": torch.tensor([1000 * (1 - share)])},
    ),
    # no audio: a block returns None for it
    Model(
        "Kandinsky6Transformer3DModel silent",
        kandinsky6_transformer,
        lambda share: {**_k6_inputs(share), "audio_hidden_states": None},
        guidance="separate",
    ),
)


def kandinsky5(pipeline: type, **changes: Any) -> Any:
    return pipeline(
        transformer=kandinsky5_transformer(**changes),
        vae=hunyuan().vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )


def kandinsky5_image(pipeline: type, **changes: Any) -> Any:
    """Its pictures have one of a few sizes: here a small one."""
    pipe = kandinsky5(pipeline, **changes)
    pipe.vae = image_vae(8)
    pipe.resolutions = [(32, 32)]
    return pipe


def image_vae(scale: int) -> AutoencoderKL:
    """Of height and width, a part in so many is left."""
    levels = scale.bit_length()
    return seeded(
        lambda: AutoencoderKL(
            block_out_channels=(4,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=4,
            norm_num_groups=2,
        )
    )


def kandinsky6() -> Kandinsky6TI2VAPipeline:
    audio_vae = seeded(
        lambda: MMAudioVAE(
            mel_bins=8,
            latent_channels=6,
            hidden_channels=16,
            layers_per_block=1,
            sample_rate=16,
            n_fft=16,
            hop_length=2,
        )
    )
    return Kandinsky6TI2VAPipeline(
        transformer=kandinsky6_transformer(),
        vae=hunyuan().vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        audio_vae=audio_vae,
        vocoder=audio_vae,  # must be there, and has nothing to do where the latents are asked for
    )


class Shrinking(Kandinsky6SRPipeline):
    """With the mean over 2 x 2 pixels in the place of its autoencoder."""

    def encode_video(self, video: Tensor) -> Tensor:
        return torch.cat([video, video[:, :1]], dim=1).unfold(3, 2, 2).unfold(4, 2, 2).mean((-2, -1))

    def decode_latents(self, latents: Tensor) -> Tensor:
        return latents[:, :3].repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)


def kandinsky6_sr() -> Shrinking:
    pipe = Shrinking(
        transformer=kandinsky6_sr_transformer(),
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal = 2, 1
    pipe.video_processor = VideoProcessor(vae_scale_factor=2)
    return pipe


_FILM = {"height": 32, "width": 32, "num_frames": 5, "guidance_scale": 5.0}
_STILL = {"height": 32, "width": 32, "guidance_scale": 5.0}
_PICTURE = noise(1, 3, 32, 32, seed=5).clamp(-1, 1)
_TEXT5 = {
    "prompt_embeds_qwen": noise(1, 6, 16, seed=1),
    "prompt_embeds_clip": noise(1, 8, seed=2),
    "prompt_cu_seqlens": torch.tensor([0, 6]),
    "negative_prompt_embeds_qwen": noise(1, 5, 16, seed=3),
    "negative_prompt_embeds_clip": noise(1, 8, seed=4),
    "negative_prompt_cu_seqlens": torch.tensor([0, 5]),
}
_TEXT6 = {
    "prompt_embeds": noise(1, 6, 16, seed=1),
    "pooled_prompt_embeds": noise(1, 8, seed=2),
    "negative_prompt_embeds": noise(1, 5, 16, seed=3),
    "negative_pooled_prompt_embeds": noise(1, 8, seed=4),
}

PIPELINES = (
    Pipeline(
        "Kandinsky5T2VPipeline",
        lambda: kandinsky5(Kandinsky5T2VPipeline),
        {**_FILM, **_TEXT5},
        ("call0", "call1"),
    ),
    Pipeline(
        "Kandinsky5I2VPipeline",
        lambda: kandinsky5(Kandinsky5I2VPipeline, visual_cond=True),
        {**_FILM, **_TEXT5, "image": _PICTURE, "num_frames": 21},  # it norms the first 4 frames by those behind
        ("call0", "call1"),
    ),
    Pipeline(
        "Kandinsky5T2IPipeline",
        lambda: kandinsky5_image(Kandinsky5T2IPipeline),
        {**_STILL, **_TEXT5},
        ("call0", "call1"),
    ),
    Pipeline(
        "Kandinsky5I2IPipeline",
        lambda: kandinsky5_image(Kandinsky5I2IPipeline, visual_cond=True),
        {**_STILL, **_TEXT5, "image": picture(32)},
        ("call0", "call1"),
    ),
    Pipeline("Kandinsky6TI2VAPipeline", kandinsky6, {**_FILM, **_TEXT6, "frame_rate": 4.0}),
    # no audio: the second stream is None in every block
    Pipeline("Kandinsky6TI2VAPipeline silent", kandinsky6, {**_FILM, **_TEXT6, "sample_audio": False}),
    Pipeline("Kandinsky6TI2VAPipeline I2V", kandinsky6, {**_FILM, **_TEXT6, "frame_rate": 4.0, "image": _PICTURE}),
    # a loop for each tile of the picture, all of the same shape, with timesteps set anew: a run for each tile
    Pipeline(
        "Kandinsky6SRPipeline",
        kandinsky6_sr,
        {"video": noise(1, 2, 3, 8, 16, seed=6).sigmoid(), "resolution_scale": 2, "output_type": "pt"},
        ("call0",),
        loops=3,
    ),
)
