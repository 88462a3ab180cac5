"""LTX-Video and LTX-2."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
)
from torch import Tensor

from tests.newer import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    LTX2ConditionPipeline,
    LTX2DFREpilogueTile,
    LTX2DFRPipeline,
    LTX2DFRTemporalRefinePipeline,
    LTX2HDRPipeline,
    LTX2HDRReferenceCondition,
    LTX2ImageToVideoPipeline,
    LTX2InContextPipeline,
    LTX2LatentUpsamplerModel,
    LTX2Pipeline,
    LTX2ReferenceCondition,
    LTX2TextConnectors,
    LTX2VideoCondition,
    LTX2VideoTransformer3DModel,
    LTXEulerAncestralRFScheduler,
    LTXI2VLongMultiPromptPipeline,
)
from tests.tiny import ltx
from tests.zoo.kinds import Model, Pipeline, noise, seeded


def _ltx_inputs(timestep: Tensor, batch: int = 2) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 8, 8).repeat(batch, 1, 1),
        "encoder_hidden_states": noise(batch, 6, 32, seed=1),
        "timestep": timestep,
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.long),
        "num_frames": 2,
        "height": 2,
        "width": 2,
        "rope_interpolation_scale": (0.5, 32, 32),
    }


def _first_frame(frames: int, tokens: int) -> Tensor:
    """The conditioning mask of an image-to-video run, [1, frames * tokens]: the first frame is given."""
    mask = torch.zeros(1, frames, tokens)
    mask[:, 0] = 1.0
    return mask.flatten(1)


def _time(share: float, batch: int) -> Tensor:
    return torch.full((batch,), 1000 * (1 - share))


def ltx2_transformer(**changes: Any) -> Any:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 8,
        "num_layers": 3,
        "caption_channels": 16,
        "rope_double_precision": False,
    }
    return seeded(lambda: LTX2VideoTransformer3DModel(**{**config, **changes}))


def _ltx2_inputs(share: float, batch: int = 2) -> dict[str, Any]:
    time = _time(share, batch)
    return {
        "hidden_states": noise(batch, 8, 4),
        "audio_hidden_states": noise(batch, 5, 4, seed=1),
        "encoder_hidden_states": noise(batch, 6, 16, seed=2),
        "audio_encoder_hidden_states": noise(batch, 6, 16, seed=3),
        "timestep": time,
        "sigma": time,
        "encoder_attention_mask": torch.ones(batch, 6),
        "audio_encoder_attention_mask": torch.ones(batch, 6),
        "num_frames": 2,
        "height": 2,
        "width": 2,
        "fps": 24.0,
        "audio_num_frames": 5,
    }


MODELS = (
    Model(
        "LTXVideoTransformer3DModel",
        lambda: ltx().transformer,
        lambda share: _ltx_inputs(_time(share, 2)),
        guidance="batched",
    ),
    Model(
        "LTXVideoTransformer3DModel I2V",
        lambda: ltx().transformer,
        lambda share: _ltx_inputs(_time(share, 2)[:, None] * (1 - _first_frame(2, 4))),
        guidance="batched",
    ),
    # here the pipeline brings the positions along, and a given frame may keep some noise
    Model(
        "LTXVideoTransformer3DModel condition",
        lambda: ltx().transformer,
        lambda share: {
            **_ltx_inputs(torch.minimum(_time(share, 2)[:, None], (1 - 0.9 * _first_frame(2, 4)) * 1000)),
            "num_frames": None,
            "height": None,
            "width": None,
            "rope_interpolation_scale": None,
            "video_coords": 10 * noise(2, 3, 8, seed=4).abs(),
        },
        guidance="batched",
    ),
    Model("LTX2VideoTransformer3DModel", ltx2_transformer, _ltx2_inputs, guidance="batched"),
    Model(
        "LTX2VideoTransformer3DModel I2V",
        ltx2_transformer,
        lambda share: {
            **_ltx2_inputs(share),
            "timestep": _time(share, 2)[:, None] * (1 - _first_frame(2, 4)),
            "audio_timestep": _time(share, 2),
        },
        guidance="batched",
    ),
    # the third forward of its pipelines: self-attention of some blocks is perturbed
    Model(
        "LTX2VideoTransformer3DModel 2.3 perturbed",
        lambda: ltx2_transformer(
            gated_attn=True,
            cross_attn_mod=True,
            audio_gated_attn=True,
            audio_cross_attn_mod=True,
            use_prompt_embeddings=False,
            perturbed_attn=True,
        ),
        lambda share: {
            **_ltx2_inputs(share, 1),
            "audio_encoder_hidden_states": noise(1, 6, 8, seed=3),
            "spatio_temporal_guidance_blocks": [1],
            "use_cross_timestep": True,
        },
        guidance="batched",
    ),
    # the fourth: video and audio do not see each other
    Model(
        "LTX2VideoTransformer3DModel isolated",
        ltx2_transformer,
        lambda share: {**_ltx2_inputs(share, 1), "isolate_modalities": True},
        guidance="batched",
    ),
)


def _pictures(height: int, width: int) -> Tensor:
    """An image to start from, as the pipelines take tensors: [1, 3, height, width] in -1..1."""
    return noise(1, 3, height, width, seed=5).clamp(-1, 1)


def _ltx_pipeline(pipeline: type) -> Any:
    return pipeline(**ltx().components)


class Wordless(LTXI2VLongMultiPromptPipeline):
    """It takes no embeddings: here are some for each prompt, without a text encoder."""

    def encode_prompt(self, prompt: list[str], **how: Any) -> tuple[Tensor, ...]:
        text = _text(32)
        text["prompt_embeds"] = noise(1, 8, 32, seed=len(prompt[0]))
        return (
            text["prompt_embeds"],
            text["prompt_attention_mask"],
            text["negative_prompt_embeds"],
            text["negative_prompt_attention_mask"],
        )


def ltx_long() -> Wordless:
    return Wordless(**{**ltx().components, "scheduler": LTXEulerAncestralRFScheduler()})


def ltx2_vae() -> AutoencoderKLLTX2Video:
    """Halves height and width."""
    return seeded(
        lambda: AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8,),
            decoder_block_out_channels=(8,),
            layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            down_block_types=("LTX2VideoDownBlock3D",),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            patch_size=1,
        )
    )


def ltx2(pipeline: type = LTX2Pipeline, **changes: Any) -> Any:
    audio_vae = seeded(
        lambda: AutoencoderKLLTX2Audio(
            base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
        )
    )
    connectors = seeded(
        lambda: LTX2TextConnectors(
            caption_channels=16,
            text_proj_in_factor=2,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
            rope_double_precision=False,
        )
    )
    parts = {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": ltx2_vae(),
        "audio_vae": audio_vae,
        "text_encoder": None,
        "tokenizer": None,
        "connectors": connectors,
        "transformer": ltx2_transformer(perturbed_attn=True, audio_in_channels=4, audio_out_channels=4),
        "vocoder": None,
    }
    return pipeline(**{**parts, **changes})


def _sigmas(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps)]


class Tiled(LTX2DFRPipeline):
    """As its last stage runs it: in each step a forward for each tile, and the audio is given."""

    def __call__(self, num_inference_steps: int, **call: Any) -> Any:
        """Takes a number of steps, as all others do."""
        grid = (5, 16, 16)
        left, right = slice(0, 10), slice(8, 16)
        ramp = torch.ones(16)
        ramp[8:10] = 0.5
        tiles = [
            LTX2DFREpilogueTile(slice(0, grid[0]), slice(0, grid[1]), part, ramp[part].expand(*grid[:2], -1))
            for part in (left, right)
        ]
        return super().__call__(sigmas=_sigmas(num_inference_steps), video_tiles=tiles, generate_slots=False, **call)


class Refining(LTX2DFRTemporalRefinePipeline):
    def __call__(self, num_inference_steps: int, **call: Any) -> Any:
        """Takes a number of steps, as all others do."""
        return super().__call__(sigmas=_sigmas(num_inference_steps), **call)


def tiled() -> Tiled:
    return ltx2(Tiled, scheduler=FlowMatchEulerDiscreteScheduler())


def refining() -> Refining:
    upsampler = seeded(
        lambda: LTX2LatentUpsamplerModel(
            in_channels=4, mid_channels=32, num_blocks_per_stage=1, spatial_upsample=False, temporal_upsample=True
        )
    )
    transformer = ltx2_transformer(perturbed_attn=True, use_keyframes_abs_pos_embedding=True)
    return ltx2(
        Refining,
        scheduler=LTXEulerAncestralRFScheduler(eta=0.5),
        transformer=transformer,
        temporal_latent_upsampler=upsampler,
    )


def _text(width: int) -> dict[str, Tensor]:
    ones = torch.ones(1, 8, dtype=torch.long)
    return {
        "prompt_embeds": noise(1, 8, width, seed=1),
        "negative_prompt_embeds": noise(1, 8, width, seed=2),
        "prompt_attention_mask": ones,
        "negative_prompt_attention_mask": ones,
    }


_LTX = {"height": 32, "width": 32, "num_frames": 9, "guidance_scale": 3.0, **_text(32)}
_LTX2 = {"height": 32, "width": 32, "num_frames": 5, "spatio_temporal_guidance_blocks": [1], **_text(32)}
_CALM = {
    "stg_scale": 0.0,
    "audio_stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_modality_scale": 1.0,
}

_HDR = {key: value for key, value in _LTX2.items() if key != "spatio_temporal_guidance_blocks"}
_SIZE = {"height": 32, "width": 32}
_WINDOWS = {
    **_SIZE,
    "guidance_scale": 3.0,
    "prompt": "red|green",
    "num_frames": 21,
    "temporal_tile_size": 12,
    "temporal_overlap": 4,
    "cond_image": _pictures(32, 32),
}


def _frames(count: int) -> Tensor:
    """[frames, 3, 32, 32]"""
    return noise(count, 3, 32, 32, seed=5).sigmoid()


PIPELINES = (
    Pipeline(
        "LTXImageToVideoPipeline",
        lambda: _ltx_pipeline(LTXImageToVideoPipeline),
        {**_LTX, "image": _pictures(32, 32)},
        ("cond_uncond",),
    ),
    Pipeline(
        "LTXConditionPipeline",
        lambda: _ltx_pipeline(LTXConditionPipeline),
        {**_LTX, "image": _pictures(32, 32), "strength": 0.9},
        ("cond_uncond",),
    ),
    Pipeline("LTX2Pipeline", ltx2, {**_LTX2, **_CALM}, ("cond_uncond",)),
    # as it comes: two forwards more in each step, of half the batch
    Pipeline("LTX2Pipeline guided", ltx2, _LTX2, ("cond_uncond", "uncond_stg", "uncond_modality")),
    Pipeline(
        "LTX2ImageToVideoPipeline",
        lambda: ltx2(LTX2ImageToVideoPipeline),
        {**_LTX2, "image": _pictures(32, 32), "image_crf": 0},
        ("cond_uncond", "uncond_stg", "uncond_modality"),
    ),
    # frames that are given, in the place of the first one and appended
    Pipeline(
        "LTX2ConditionPipeline",
        lambda: ltx2(LTX2ConditionPipeline),
        {**_LTX2, "conditions": [LTX2VideoCondition(_frames(1), index=i, crf=0) for i in (0, -1)]},
        ("cond_uncond", "uncond_stg", "uncond_modality"),
    ),
    Pipeline(
        "LTX2InContextPipeline",
        lambda: ltx2(LTX2InContextPipeline),
        {**_LTX2, "reference_conditions": [LTX2ReferenceCondition(_frames(5))]},
        ("cond_uncond", "uncond_stg", "uncond_modality"),
    ),
    Pipeline(
        "LTX2HDRPipeline",
        lambda: ltx2(LTX2HDRPipeline),
        {**_HDR, "reference_conditions": [LTX2HDRReferenceCondition(_frames(5))]},
        ("cond_uncond",),
    ),
    # a forward for each tile in each step
    Pipeline(
        "LTX2DFRPipeline",
        tiled,
        {
            **_SIZE,
            "num_frames": 9,
            "use_cross_timestep": False,
            "prompt_embeds": noise(1, 8, 32, seed=1),
            "prompt_attention_mask": torch.ones(1, 8, dtype=torch.long),
        },
        ("call0", "call1"),
    ),
    # a loop for each tile of time; of its schedule the last time, 0, is none that the denoiser is called with
    Pipeline(
        "LTX2DFRTemporalRefinePipeline",
        refining,
        {
            **_SIZE,
            "num_frames": 9,
            "latents": noise(1, 4, 5, 16, 16, seed=6),
            "keyframes_latents": noise(1, 4, 2, 16, 16, seed=7),
            "keyframe_positions": [4, 8],
            "audio_latents": noise(1, 2, 20, 2, seed=8),
            "prompt_embeds": noise(1, 8, 32, seed=1),
            "prompt_attention_mask": torch.ones(1, 8, dtype=torch.long),
        },
        ("call0",),
        loops=2,
    ),
    # a loop for each window of time, with timesteps set anew; the last window is shorter, and so is the schedule
    Pipeline(
        "LTXI2VLongMultiPromptPipeline",
        ltx_long,
        {**_WINDOWS, "sigmas": [*_sigmas(10), 0.0]},
        ("cond_uncond",),
        loops=3,
    ),
)

SPECIAL = (
    # without sigmas of its own the loop leaves out the schedule's last step, which is a real one: 9 of 10
    Pipeline("LTXI2VLongMultiPromptPipeline nine of ten", ltx_long, _WINDOWS, ("cond_uncond",), loops=3),
)
