"""Helios."""

from __future__ import annotations

from typing import Any

import torch

from tests.newer import (
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
)
from tests.tiny import wan_vae
from tests.zoo.kinds import Model, Pipeline, noise
from tests.zoo.wan import BLIND, wan_call, wan_like


def helios_transformer(**changes: Any) -> Any:
    config = {"rope_dim": (4, 4, 4), **changes}
    return wan_like(_Helios, **config)


def _Helios(rope_max_seq_len: int, **config: Any) -> HeliosTransformer3DModel:
    """Wan's layout, but for one setting."""
    return HeliosTransformer3DModel(**config)


def _inputs(share: float) -> dict[str, Any]:
    """Two frames, and behind them a history of 4, 2 and 2 at three scales."""
    return {
        "hidden_states": noise(1, 4, 2, 4, 4),
        "timestep": torch.tensor([round(999 * (1 - share))]),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "indices_hidden_states": torch.arange(8, 10)[None],
        "indices_latents_history_short": torch.tensor([[0, 7]]),
        "indices_latents_history_mid": torch.tensor([[5, 6]]),
        "indices_latents_history_long": torch.tensor([[1, 2, 3, 4]]),
        "latents_history_short": noise(1, 4, 2, 4, 4, seed=2),
        "latents_history_mid": noise(1, 4, 2, 4, 4, seed=3),
        "latents_history_long": noise(1, 4, 4, 4, 4, seed=4),
    }


MODELS = (
    Model("HeliosTransformer3DModel", helios_transformer, _inputs, guidance="separate"),
    Model(
        "HeliosTransformer3DModel plain",
        lambda: helios_transformer(guidance_cross_attn=False, zero_history_timestep=False, is_amplify_history=True),
        _inputs,
        guidance="separate",
    ),
)


def helios() -> HeliosPipeline:
    return HeliosPipeline(
        **BLIND,
        vae=wan_vae(),
        scheduler=HeliosScheduler(stages=1, stage_range=[0, 1]),
        transformer=helios_transformer(),
    )


class Pyramid(HeliosPyramidPipeline):
    """Takes a number of steps, as all others do, and leaves it at that: each stage has one of its own."""

    def __call__(self, num_inference_steps: int, **call: Any) -> Any:
        return super().__call__(**call)


def pyramid() -> Pyramid:
    return Pyramid(**BLIND, vae=wan_vae(), scheduler=HeliosScheduler(gamma=0.3), transformer=helios_transformer())


_FILM = {**wan_call(), "num_frames": 5, "num_latent_frames_per_chunk": 2}

PIPELINES = (
    Pipeline("HeliosPipeline", helios, _FILM),
    # a loop for each chunk, with timesteps set anew: a run for each
    Pipeline("HeliosPipeline chunks", helios, {**_FILM, "num_frames": 10}, loops=2),
    # a loop for each of three stages, the picture four times as large in the next one: a run for each
    Pipeline(
        "HeliosPyramidPipeline",
        pyramid,
        {**_FILM, "height": 64, "width": 64, "pyramid_num_inference_steps_list": [8, 8, 8]},
        loops=3,
    ),
)
