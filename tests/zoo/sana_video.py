"""SANA-Video and SANA-WM."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from tests.newer import (
    SanaImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SanaWMPipeline,
    SanaWMTransformer3DModel,
)
from tests.tiny import wan_vae
from tests.zoo.flux import picture
from tests.zoo.kinds import Model, Pipeline, noise, seeded
from tests.zoo.ltx import ltx2_vae


def sana_video_transformer() -> Any:
    return seeded(
        lambda: SanaVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=3,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=16,
            sample_size=8,
            rope_max_seq_len=32,
        )
    )


def _inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(2, 4, 2, 4, 4),
        "encoder_hidden_states": noise(2, 6, 16, seed=1),
        "encoder_attention_mask": torch.ones(2, 6),
        "timestep": torch.full((2,), 1000 * (1 - share)),
    }


def sana_wm_transformer(rays: int = 6) -> Any:
    def build() -> Any:
        made = SanaWMTransformer3DModel(
            in_channels=4,
            num_layers=4,
            hidden_size=32,
            num_attention_heads=2,
            softmax_every_n=2,
            linear_head_dim=16,
            chunk_plucker_channels=rays,
            caption_channels=16,
            mlp_ratio=2.0,
        )
        for parameter in made.parameters():
            if parameter.abs().max() == 0:
                parameter.data.normal_(std=0.1)
        return made

    return seeded(build)


MODELS = (
    Model("SanaVideoTransformer3DModel", sana_video_transformer, _inputs, guidance="batched"),
    # one time per token, the first frame is given
    Model(
        "SanaVideoTransformer3DModel I2V",
        sana_video_transformer,
        lambda share: {
            **_inputs(share),
            "timestep": torch.tensor([0.0, 1000 * (1 - share)]).view(1, 1, 2, 1, 1).expand(2, 1, 2, 2, 2),
        },
        guidance="batched",
    ),
    Model(
        "SanaVideoTransformer3DModel ControlNet",
        sana_video_transformer,
        lambda share: {
            **_inputs(share),
            "controlnet_block_samples": (noise(2, 8, 24, seed=2), noise(2, 8, 24, seed=3)),
        },
        guidance="batched",
    ),
    Model(
        "SanaWMTransformer3DModel",
        sana_wm_transformer,
        lambda share: {
            "hidden_states": noise(2, 4, 3, 2, 2),
            "timestep": torch.tensor([0.0, 1000 * (1 - share), 1000 * (1 - share)]).expand(2, 1, 3),
            "encoder_hidden_states": noise(2, 1, 6, 16, seed=1),
            "mask": torch.ones(2, 6, dtype=torch.long),
            "chunk_plucker": noise(2, 6, 3, 2, 2, seed=2),
        },
        guidance="batched",
    ),
)


def sana_video(pipeline: type, scheduler: Any) -> Any:
    return pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(),
        transformer=sana_video_transformer(),
        scheduler=scheduler,
    )


def sana_wm() -> SanaWMPipeline:
    return SanaWMPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=ltx2_vae(),
        transformer=sana_wm_transformer(12),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0),
    )


_CALL = {
    "height": 32,
    "width": 32,
    "frames": 5,
    "guidance_scale": 6.0,
    "negative_prompt": None,
    "use_resolution_binning": False,
    "prompt_embeds": noise(1, 6, 16, seed=1),
    "negative_prompt_embeds": noise(1, 6, 16, seed=2),
    "prompt_attention_mask": torch.ones(1, 6),
    "negative_prompt_attention_mask": torch.ones(1, 6),
}

PIPELINES = (
    Pipeline(
        "SanaVideoPipeline",
        lambda: sana_video(
            SanaVideoPipeline,
            DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=8.0),
        ),
        _CALL,
        ("call0",),
    ),
    Pipeline(
        "SanaImageToVideoPipeline",
        lambda: sana_video(SanaImageToVideoPipeline, FlowMatchEulerDiscreteScheduler(shift=8.0)),
        {**_CALL, "image": noise(1, 3, 32, 32, seed=5).clamp(-1, 1)},
        ("call0",),
    ),
    # a world with a camera that goes ahead
    Pipeline(
        "SanaWMPipeline",
        sana_wm,
        {
            "image": picture(32),
            "prompt": None,
            "c2w": np.stack([np.diag([1.0, 1.0, 1.0, 1.0])] * 9).astype(np.float32),
            "intrinsics": [32.0, 32.0, 16.0, 16.0],
            "height": 32,
            "width": 32,
            "num_frames": 9,
            "guidance_scale": 5.0,
            **{key: _CALL[key] for key in ("prompt_embeds", "negative_prompt_embeds")},
            **{key: _CALL[key] for key in ("prompt_attention_mask", "negative_prompt_attention_mask")},
        },
        ("call0",),
    ),
)
