"""Helios."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HeliosTransformer3DModel

from zoo.kinds import Model, noise
from zoo.wan import wan_like


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
