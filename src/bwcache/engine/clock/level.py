"""The noise level of a step as the denoiser sees it, and what it predicts there: as the scheduler of the run has it.

Known of the schedulers whose text was read, and of those alone: another one may scale what enters the denoiser, or mean
something else by its sigmas.
"""

from __future__ import annotations

from typing import Any

from bwcache.core import Step
from bwcache.features.noise_level import PREDICTS, NoiseLevel, Predicts
from bwcache.models import BlockSpec

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
"""Their sigmas are shares of noise, and they know nothing but flows."""

EITHER = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
"""Shares of noise with `use_flow_sigmas`, else noise over data; what enters the denoiser has unit size."""

SCALED = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")
"""Their sigmas are noise over data, and they scale what enters the denoiser to unit size."""

BY_TIME = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
"""No sigmas: how much is data stands in `alphas_cumprod` at the timestep; what enters the denoiser has unit size."""

DRAWS = ("FlowMatchLCMScheduler", "EulerAncestralDiscreteScheduler", "CogVideoXDPMScheduler", "DDPMScheduler")
"""They add new noise in each step."""

_NAMES: dict[str, Predicts] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
    "flow_prediction": "flow",
}


def level_of(scheduler: Any, spec: BlockSpec, step: Step) -> NoiseLevel | None:
    """Return the noise level of a step; None where the row, the scheduler or the step does not tell it for certain."""
    predicts, sign = predicted_by(scheduler), {"direct": 1.0, "negative": -1.0}.get(spec.prediction)
    if predicts is None or sign is None:
        return None
    name = type(scheduler).__name__
    if name in BY_TIME:
        signal = _kept(scheduler, step.timestep)
        return None if signal is None else NoiseLevel(predicts, signal**0.5, (1 - signal) ** 0.5, sign)
    if step.sigma is None:
        return None
    if predicts != "flow":
        return NoiseLevel.of_share(predicts, step.sigma / (1 + step.sigma), sign)
    if getattr(scheduler.config, "invert_sigmas", False):
        return NoiseLevel("flow", step.sigma, 1 - step.sigma, -sign)
    return NoiseLevel("flow", 1 - step.sigma, step.sigma, sign)


def predicted_by(scheduler: Any) -> Predicts | None:
    """Return what a scheduler takes the model's output for; None where it is not one of those known here."""
    name, home = type(scheduler).__name__, type(scheduler).__module__
    if not home.startswith("diffusers."):
        return None
    if name in FLOW:
        return "flow"
    says = _NAMES.get(str(getattr(scheduler.config, "prediction_type", None)))
    if name in EITHER:
        return says if (says == "flow") == bool(scheduler.config.use_flow_sigmas) else None
    return says if name in (*SCALED, *BY_TIME) and says != "flow" else None


def _kept(scheduler: Any, timestep: float | None) -> float | None:
    """The share of the data's variance at a timestep; None where it is no training step."""
    alphas = scheduler.alphas_cumprod
    if timestep is None or timestep != int(timestep) or not 0 <= timestep < len(alphas):
        return None
    return float(alphas[int(timestep)])


def said_by_host(predicts: str, sigma: float | None) -> NoiseLevel | None:
    """Return the level that a host says: sigma is the share of noise of a flow, and else noise over data."""
    kind = next(each for each in PREDICTS if each == predicts)
    if sigma is None:
        return None
    return NoiseLevel.of_share(kind, sigma if kind == "flow" else sigma / (1 + sigma))
