"""Wan 2.1 and 2.2."""

from __future__ import annotations

import torch
from tiny import wan_transformer

from zoo.kinds import Model, noise

MODELS = (
    Model(
        "WanTransformer3DModel",
        wan_transformer,
        lambda share: {
            "hidden_states": noise(1, 4, 2, 4, 4),
            "timestep": torch.tensor([1000 * (1 - share)]),
            "encoder_hidden_states": noise(1, 6, 8, seed=1),
        },
        guidance="separate",
    ),
)
