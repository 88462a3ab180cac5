"""What latents are made of at one noise level, and what a denoiser's prediction says of the clean ones.

Latents are `signal * data + noise * n` with n drawn once. Whatever a model predicts, the data is a sum of latents and
prediction, and the prediction a sum of latents and data:

- "flow":    v = n - data,                  data = (latents - noise * v) / (signal + noise)
- "epsilon": n,                             data = (latents - noise * n) / signal
- "v":       v = signal * n - noise * data, data = signal * latents - noise * v, where signal^2 + noise^2 = 1
- "sample":  data
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Predicts = Literal["flow", "epsilon", "v", "sample"]
PREDICTS: tuple[Predicts, ...] = get_args(Predicts)


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """A noise level as the latents have it that enter the denoiser.

    Attributes:
        predicts: what the denoiser returns at it.
        signal, noise: what the data and the noise in the latents are multiplied by.
        sign: -1 where the denoiser returns the negative of that.
    """

    predicts: Predicts
    signal: float
    noise: float
    sign: float = 1.0

    @classmethod
    def of_share(cls, predicts: Predicts, share: float, sign: float = 1.0) -> NoiseLevel:
        """Return the level at which `share` of the latents is noise, 1..0: as `Step.noise` counts."""
        if predicts == "flow":
            return cls(predicts, 1 - share, share, sign)
        size = float((share**2 + (1 - share) ** 2) ** 0.5)
        return cls(predicts, (1 - share) / size, share / size, sign)

    @property
    def share(self) -> float:
        """The share of noise in the latents, 1..0."""
        return self.noise / (self.signal + self.noise)

    def at(self, share: float) -> NoiseLevel:
        """Return another level of the same model."""
        return NoiseLevel.of_share(self.predicts, share, self.sign)

    @property
    def says_data(self) -> bool:
        """Whether a prediction at this level tells the data, and the data a prediction."""
        return self.noise > 0 and (self.predicts != "epsilon" or self.signal > 0)

    @property
    def _weights(self) -> tuple[float, float]:
        """How much of the latents and of what the denoiser returns makes up the data."""
        if self.predicts == "flow":
            whole = self.signal + self.noise
            return 1 / whole, -self.noise / whole * self.sign
        if self.predicts == "epsilon":
            return 1 / self.signal, -self.noise / self.signal * self.sign
        if self.predicts == "v":
            return self.signal, -self.noise * self.sign
        return 0.0, self.sign

    def clean(self, latents: Tensor, predicted: Tensor) -> Tensor:
        """Return the data that a prediction at these latents means, float32 or wider; shapes as theirs."""
        latents_weight, prediction_weight = self._weights
        return _wide(latents) * latents_weight + _wide(predicted) * prediction_weight

    def predicted(self, latents: Tensor, clean: Tensor) -> Tensor:
        """Return the prediction at these latents that means this data: the reverse of `clean`."""
        latents_weight, prediction_weight = self._weights
        return (_wide(clean) - _wide(latents) * latents_weight) / prediction_weight

    def carried(self, latents: Tensor, before: Tensor, was: NoiseLevel, to: NoiseLevel) -> Tensor | None:
        """Return the latents as they will be at the level `to`, if they go on as they came; None if they stood still.

        That they came from `before` at the level `was` to here without new noise tells one point of data that they are
        on the way to: `latents` and `before` are both sums of it and of the same noise. So is what is returned. Latents
        that are held fixed in flow matching stay as they are.
        """
        if was.noise == 0 or self.noise == 0:
            return None
        kept = self.noise / was.noise
        moved = self.signal - was.signal * kept
        if abs(moved) < 1e-6:
            return None
        data = (_wide(latents) - _wide(before) * kept) / moved
        on = to.noise / self.noise
        return _wide(latents) * on + data * (to.signal - self.signal * on)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
