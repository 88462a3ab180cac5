"""Mochi."""

from __future__ import annotations

import torch

from tests.tiny import mochi
from tests.zoo.kinds import Model, noise

MODELS = (
    # time runs upwards: the pipeline passes 1000 minus the scheduler's timestep
    Model(
        "MochiTransformer3DModel",
        lambda: mochi().transformer,
        lambda share: {
            "hidden_states": noise(2, 12, 2, 4, 4),
            "encoder_hidden_states": noise(2, 16, 32, seed=1),
            "timestep": torch.full((2,), 1000 * share),
            "encoder_attention_mask": torch.ones(2, 16, dtype=torch.bool),
        },
        guidance="batched",
    ),
)
