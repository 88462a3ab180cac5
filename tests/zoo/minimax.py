"""MiniMax-H3."""

from __future__ import annotations

from typing import Any

import torch

from tests.newer import (
    MiniMaxH3Transformer3DModel,
)
from tests.zoo.kinds import Model, noise, seeded


def minimax_transformer() -> Any:
    return seeded(
        lambda: MiniMaxH3Transformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            hidden_size=16,
            num_layers=3,
            num_refiner_layers=1,
            ffn_dim=24,
            in_channels=4,
            audio_in_channels=6,
            text_dim=8,
            freq_dim=16,
            time_embed_hidden_dim=16,
            time_embed_dim=8,
            rope_freq_dim=2,
        )
    )


def _shifted(share: float, shift: float) -> float:
    """Time as its scheduler names it, 0 for noise and 1 for the video."""
    sigma = 1 - share
    return 1 - shift * sigma / (1 + (shift - 1) * sigma)


def _inputs(share: float) -> dict[str, Any]:
    """One row of 4 text, 3 audio and 8 video tokens; video and audio go their own pace."""
    rows = torch.full((15,), _shifted(share, 12.0))
    rows[4:7] = _shifted(share, 3.0)
    times, indices = torch.unique(rows, sorted=True, return_inverse=True)
    return {
        "hidden_states": noise(1, 8, 16),
        "audio_hidden_states": noise(1, 3, 6, seed=1),
        "encoder_hidden_states": noise(1, 4, 8, seed=2),
        "timestep": times,
        "timestep_indices": indices,
        "token_tags": torch.tensor([1] * 4 + [2] * 3 + [0] * 8),
        "position_ids": torch.arange(15).float()[:, None].expand(15, 3),
        "video_indices": torch.arange(7, 15),
        "audio_indices": torch.arange(4, 7),
        "text_indices": torch.arange(4),
    }


MODELS = (
    # time runs upwards; the distilled model takes no guidance
    Model("MiniMaxH3Transformer3DModel", minimax_transformer, _inputs),
)


def _with_keyframe(share: float) -> dict[str, Any]:
    """The first 4 video tokens are given and have the time 0.999 in every step: the largest time never moves."""
    inputs = _inputs(share)
    rows = inputs["timestep"][inputs["timestep_indices"]]
    rows[7:11] = 0.999
    times, indices = torch.unique(rows, sorted=True, return_inverse=True)
    return {**inputs, "timestep": times, "timestep_indices": indices}


LATER = (Model("MiniMaxH3Transformer3DModel I2V", minimax_transformer, _with_keyframe),)
