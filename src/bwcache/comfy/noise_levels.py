"""What ComfyUI's sigmas and predictions mean: by the `model_sampling` of the model, whose class says it."""

from __future__ import annotations

from typing import Any

import torch

PREDICTIONS = {"CONST": "flow", "COSMOS_RFLOW": "flow", "EPS": "epsilon", "V_PREDICTION": "v", "X0": "sample"}
"""By the class that says how what comes out becomes the clean latents; others are not known for certain."""


class NoiseLevels:
    """How a model's sigmas are read.

    Args:
        model_sampling: the model's.

    Attributes:
        prediction: what the model returns, as `session.step` takes it; None: not known for certain.
    """

    def __init__(self, model_sampling: Any) -> None:
        named = next((base for base in type(model_sampling).__mro__ if "calculate_denoised" in vars(base)), object)
        of_unit_size = getattr(model_sampling, "sigma_data", 1.0) == 1.0
        known = PREDICTIONS.get(named.__name__) if named.__module__.startswith("comfy.") else None
        self.prediction = known if of_unit_size or named.__name__ == "CONST" else None
        self._model_sampling = model_sampling
        self._is_share = named.__name__ in ("CONST", "IMG_TO_IMG_FLOW")

    def share(self, sigma: float) -> float:
        """Return the share of noise, 1..0, at a sigma of the sampler."""
        return min(max(sigma if self._is_share else sigma / (1 + sigma), 0.0), 1.0)

    def scale(self, sigma: float) -> float:
        """Return what latents are multiplied with to be (1 - share) data + share noise."""
        return 1.0 if self._is_share else 1 / (1 + sigma)

    def time_of(self, share: float) -> float:
        """Return the time that a flow model is told at a share of noise."""
        return float(self._model_sampling.timestep(torch.tensor(share)))

    def told(self, sigma: float) -> float:
        """Return the sigma that `session.step` takes: the share of a flow, else noise over data."""
        return self.share(sigma) if self.prediction == "flow" else sigma
