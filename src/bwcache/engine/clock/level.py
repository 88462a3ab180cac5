"""The noise level of a step as the denoiser sees it, and what it predicts there: as the scheduler of the run has it.

Known of the schedulers whose text was read, and of those alone: another one may scale what enters the denoiser, or mean
something else by its sigmas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.engine.clock.call import Call
from bwcache.engine.clock.caller import Caller
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


def retimed(call: Call, caller: Caller, step: Step, here: NoiseLevel, to: NoiseLevel) -> tuple[Any, NoiseLevel] | str:
    """Return the time argument of a forward at another noise level, and that level; or why there is none.

    A scheduler that counts training steps has a level for each whole one: the nearest is taken. Reads the device.

    Args:
        call: the forward.
        caller: knows what the pipeline says around it.
        step: where it stands.
        here: its own level.
        to: the other one.
    """
    if call.host is not None and call.host.prediction is not None:
        return _time_by_host(call, call.host.time_of, here, to)
    scheduler, argument = call.scheduler, call.time.argument
    if predicted_by(scheduler) is None:
        return "its scheduler is not known"
    if _draws(scheduler) or caller.says(call.stack.module, "eta"):
        return "its scheduler adds new noise"
    if _is_of_parts(call):
        return "each token or frame has a time of its own"
    now, then = _time_at(scheduler, here), _time_at(scheduler, to)
    if now is None or then is None or step.timestep is None or abs(now[0] - step.timestep) > 1:
        return "which time a noise level has is not known"
    forms = [form for form in _forms(scheduler) if _is_near(form(step.timestep), argument)]
    if len(forms) != 1 and call.time.place is None:  # in the middle 500 is 1000 - 500; a view of the list is the first
        return "how its time argument is told from the scheduler's is not known"
    return _like(argument, forms[0](then[0])), then[1]


def _time_by_host(
    call: Call, time_of: Callable[[float], float] | None, here: NoiseLevel, to: NoiseLevel
) -> tuple[Any, NoiseLevel] | str:
    if time_of is None:
        return "the host does not say the time of another noise level"
    if _is_of_parts(call):
        return "each token or frame has a time of its own"
    if not _is_near(time_of(here.share), call.time.argument):
        return "the host says another time of this noise level than it has"
    return _like(call.time.argument, time_of(to.share)), to


def _is_of_parts(call: Call) -> bool:
    return call.time.entries not in (1, len(call.latents) if call.latents is not None else 1)


def _like(argument: Any, value: float) -> Any:
    if isinstance(argument, tuple):  # a time of the picture and one of the sound
        return tuple(_like(each, value) for each in argument)
    if not isinstance(argument, Tensor):
        return type(argument)(value)
    return torch.full_like(argument, value if argument.is_floating_point() else round(value))


def _draws(scheduler: Any) -> bool:
    """Whether a scheduler adds new noise in each step: then latents do not go on as they came."""
    config = scheduler.config
    algorithm = str(getattr(config, "algorithm_type", ""))
    stochastic = bool(getattr(config, "stochastic_sampling", False)) or algorithm.startswith("sde")
    return stochastic or type(scheduler).__name__ in DRAWS


def _time_at(scheduler: Any, level: NoiseLevel) -> tuple[float, NoiseLevel] | None:
    """The scheduler's time of a noise level, and the level at which that really is."""
    config = scheduler.config
    if level.predicts == "flow":
        sigma = level.signal if getattr(config, "invert_sigmas", False) else level.noise
        time = sigma * config.num_train_timesteps
        return (time if scheduler.timesteps.is_floating_point() else int(time)), level
    if getattr(config, "timestep_type", "discrete") != "discrete":
        return None
    alphas = scheduler.alphas_cumprod
    time = int((alphas - level.signal**2).abs().argmin())
    signal = float(alphas[time])
    return time, NoiseLevel(level.predicts, signal**0.5, (1 - signal) ** 0.5, level.sign)


def _forms(scheduler: Any) -> tuple[Callable[[float], float], ...]:
    """How pipelines hand a time on."""
    most = scheduler.config.num_train_timesteps
    return (lambda t: t, lambda t: most - t, lambda t: t / most, lambda t: 1 - t / most)


def _is_near(value: float, argument: Any) -> bool:
    """Whether all entries of a time argument are this number, as far as its type can tell."""
    if isinstance(argument, tuple):
        return all(_is_near(value, each) for each in argument)
    low, high = (argument.min().item(), argument.max().item()) if isinstance(argument, Tensor) else (argument, argument)
    rounded = isinstance(argument, Tensor) and argument.dtype in (torch.bfloat16, torch.float16)
    off = abs(value) / (256 if rounded else 1e5) + 1e-4
    return low == high and abs(value - low) <= off
