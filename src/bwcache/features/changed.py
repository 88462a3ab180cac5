"""The newest feature, and a share of how it differs from the one before, whatever lies between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.predictors import Past, Predictor


@dataclass(frozen=True)
class Changed(Predictor):
    """F + weight * (F - F'), of the last two computed features; one alone is replayed.

    Args:
        weight: 0 replays.
    """

    weight: float = 0.5

    history: ClassVar[int] = 2

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the sum, in the features' dtype."""
        newest = past[0][1]
        return newest.clone() if len(past) < 2 else torch.lerp(newest, past[1][1], -self.weight)
