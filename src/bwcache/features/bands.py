"""A kept feature over the picture, its low and its high frequencies made larger or smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.predictors import Past, Predictor

RADIUS = 5
"""Low frequencies lie within one in so many of the shorter side, around the middle."""


@dataclass(frozen=True)
class Bands(Predictor):
    """The newest feature, `[…, H, W]`, with its spectrum scaled; one that lies in tokens is replayed.

    Args:
        low, high: by how much the low and the high frequencies are multiplied.
    """

    low: float = 1.0
    high: float = 1.0

    history: ClassVar[int] = 1

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the scaled feature, computed in float32 and handed out in the features' dtype."""
        feature = past[0][1]
        if feature.ndim < 4 or self.low == self.high == 1:
            return feature.clone()
        height, width = feature.shape[-2:]
        rows, columns = (torch.arange(size, device=feature.device) - size // 2 for size in (height, width))
        near = rows.square()[:, None] + columns.square() <= (min(height, width) // RADIUS) ** 2
        scale = torch.where(torch.fft.ifftshift(near), self.low, self.high)
        scaled: Tensor = torch.fft.ifft2(torch.fft.fft2(feature.float()) * scale).real
        return scaled.to(feature.dtype)
