"""SkyReels-V2."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)

from tests.tiny import wan_vae
from tests.zoo.kinds import Model, Pipeline, noise
from tests.zoo.wan import BLIND, IMAGE, TEXT, eyes, pictures, scalar_time, unipc, wan_call, wan_inputs, wan_like


def skyreels(**changes: Any) -> Any:
    return wan_like(SkyReelsV2Transformer3DModel, **changes)


def _forced(share: float) -> dict[str, Any]:
    """Diffusion forcing: a time of its own for each frame; the first one is given."""
    time = torch.tensor([[0.0, 1000 * (1 - share)]])
    return {**wan_inputs(time), "enable_diffusion_forcing": True, "fps": [1]}


MODELS = (
    Model(
        "SkyReelsV2Transformer3DModel",
        skyreels,
        lambda share: wan_inputs(scalar_time(share)),
        guidance="separate",
    ),
    Model(
        "SkyReelsV2Transformer3DModel I2V",
        lambda: skyreels(in_channels=12, **IMAGE),
        lambda share: {
            **wan_inputs(scalar_time(share), 12, TEXT),
            "encoder_hidden_states_image": noise(1, 5, 8, seed=2),
        },
        guidance="separate",
    ),
    Model(
        "SkyReelsV2Transformer3DModel DF",
        lambda: skyreels(inject_sample_info=True),
        _forced,
        guidance="separate",
    ),
    # frames in causal blocks: an attention mask
    Model(
        "SkyReelsV2Transformer3DModel causal",
        lambda: skyreels(num_frame_per_block=2),
        lambda share: {
            **wan_inputs(torch.tensor([[1000 * (1 - share)] * 2 + [1000 * (1 - share / 2)] * 2])),
            "hidden_states": noise(1, 4, 4, 4, 4),
            "enable_diffusion_forcing": True,
        },
        guidance="separate",
    ),
)


def text_to_video() -> SkyReelsV2Pipeline:
    return SkyReelsV2Pipeline(**BLIND, vae=wan_vae(), scheduler=unipc(), transformer=skyreels())


def image_to_video() -> SkyReelsV2ImageToVideoPipeline:
    return SkyReelsV2ImageToVideoPipeline(
        **BLIND, **eyes(), vae=wan_vae(), scheduler=unipc(), transformer=skyreels(in_channels=12, **IMAGE)
    )


def forcing(pipeline: type, **changes: Any) -> Any:
    return pipeline(**BLIND, vae=wan_vae(), scheduler=unipc(), transformer=skyreels(inject_sample_info=True, **changes))


_FILM = {**wan_call(), "num_frames": 5}
_FORCED = {**_FILM, "prompt": None, "base_num_frames": 5, "overlap_history": None}

PIPELINES = (
    Pipeline("SkyReelsV2Pipeline", text_to_video, _FILM),
    Pipeline("SkyReelsV2ImageToVideoPipeline", image_to_video, {**_FILM, **wan_call(TEXT), "image": pictures(1)[0]}),
    # diffusion forcing: a copy of the scheduler for each frame, and the pipeline's own one never steps
    Pipeline("SkyReelsV2DiffusionForcingPipeline", lambda: forcing(SkyReelsV2DiffusionForcingPipeline), _FORCED),
    # a long film: a loop for each window, the first of all noise, the others after given frames
    Pipeline(
        "SkyReelsV2DiffusionForcingPipeline long",
        lambda: forcing(SkyReelsV2DiffusionForcingPipeline),
        {**_FORCED, "num_frames": 13, "base_num_frames": 9, "overlap_history": 5},
        loops=2,
    ),
    Pipeline(
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        lambda: forcing(SkyReelsV2DiffusionForcingImageToVideoPipeline),
        {**_FORCED, "image": pictures(1)[0]},
    ),
    Pipeline(
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        lambda: forcing(SkyReelsV2DiffusionForcingVideoToVideoPipeline),
        {**_FORCED, "video": pictures(5), "num_frames": 9, "base_num_frames": 9, "overlap_history": 5},
    ),
)

SPECIAL = (
    # Frame after frame: more steps than asked for; the highest time stays for some steps, as the last frame waits.
    Pipeline(
        "SkyReelsV2DiffusionForcingPipeline in turn",
        lambda: forcing(SkyReelsV2DiffusionForcingPipeline, num_frame_per_block=1),
        {**_FORCED, "num_frames": 9, "base_num_frames": 9, "ar_step": 2},
    ),
)
