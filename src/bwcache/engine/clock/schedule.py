"""How many steps a run has, and at which times: what a scheduler says, and what the pipeline says of its loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bwcache.engine.clock.times import numbers

LOW = 2.0
"""A run all of whose timesteps are below it does not go by training timesteps, 1000..0."""

TRAINED = 1000
"""Training steps of nearly all models."""


@dataclass(frozen=True)
class Schedule:
    """What a scheduler says before a run: timesteps and sigmas from the position where sampling begins.

    Attributes:
        timesteps: as the scheduler names them, in sampling order.
        sigmas: of the same steps, or None where it has none.
        noises: share of noise at each step and after the last one, or None where the scheduler does not say it.
        scheduler: which says all this.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...] | None
    noises: tuple[float, ...] | None = None
    scheduler: Any = None

    @cached_property
    def trained(self) -> int | None:
        """How many training steps the timesteps count, that many for noise and 0 for data; None: they count otherwise.

        So do those that rise while the noise falls (Mochi; where both rise a video is inverted), that go from 1 or from
        half of pi to 0, that go below 0 (logarithms of sigma), or that begin above (Cosmos 2: a thousand sigmas).
        """
        first, last, noises = self.timesteps[0], self.timesteps[-1], self.noises
        rises = first < last and not (noises and noises[0] < noises[len(self.timesteps) - 1])
        said = getattr(getattr(self.scheduler, "config", None), "num_train_timesteps", None)
        trained = said if isinstance(said, int) and said >= LOW else TRAINED
        if rises or not LOW <= max(first, last) <= trained + 1 or min(first, last) < 0:
            return None
        return trained

    @classmethod
    def read(cls, scheduler: Any, begin: int) -> Schedule | None:
        """The schedule from `begin` on; None where the scheduler holds none (or one row per frame)."""
        timesteps = numbers(getattr(scheduler, "timesteps", None))
        if timesteps is None or len(timesteps) <= begin:
            return None
        sigmas = numbers(getattr(scheduler, "sigmas", None))
        if sigmas is not None and len(sigmas) < len(timesteps):
            sigmas = None
        end = len(timesteps) - _ends_without_noise(scheduler, timesteps, sigmas)
        end = max(end, begin + 1)
        times = tuple(timesteps[begin:end])
        noises = _shares(scheduler, times, sigmas, begin)
        return cls(times, None if sigmas is None else tuple(sigmas[begin:end]), noises, scheduler)


def _shares(
    scheduler: Any, timesteps: Sequence[float], sigmas: Sequence[float] | None, begin: int = 0
) -> tuple[float, ...] | None:
    """Share of noise at each step of a schedule and after the last one; None where the scheduler does not say it.

    Latents are (1 - share) data + share noise, up to their scale. It falls, or where a video is inverted rises.

    Args:
        scheduler: asked for its `alphas_cumprod` where it has no sigmas.
        timesteps: of the steps, in sampling order.
        sigmas: all of the scheduler's, or None where it has none. In flow matching they are shares already, with
            `invert_sigmas` (Mochi) of data; else they are noise over data.
        begin: where among the sigmas the first step stands.
    """
    if sigmas is None:
        return _of_signal(scheduler, timesteps, begin)
    levels = [*sigmas[begin : begin + len(timesteps) + 1]]
    if _are_over_data(scheduler, sigmas):
        levels = [level / (1 + level) for level in levels]
    elif getattr(getattr(scheduler, "config", None), "invert_sigmas", False):
        levels = [1 - level for level in levels]
    return tuple(levels) if len(levels) > len(timesteps) else (*levels, 0.0)


def _are_over_data(scheduler: Any, sigmas: Sequence[float]) -> bool:
    """Whether sigmas are noise over data: above 1 somewhere, unless they were set by hand from the middle on."""
    flows = getattr(getattr(scheduler, "config", None), "use_flow_sigmas", False)
    return max(sigmas) > 1 + 1e-3 or (hasattr(scheduler, "alphas_cumprod") and not flows)


def _of_signal(scheduler: Any, timesteps: Sequence[float], begin: int) -> tuple[float, ...] | None:
    """By the share of the data's variance that is kept at each training step (DDPM's notation).

    Where DDIM inverts, a step is named by the time that it leads to.
    """
    kept, data = getattr(scheduler, "alphas_cumprod", None), getattr(scheduler, "initial_alpha_cumprod", None)
    if kept is None or min(timesteps) < 0 or max(timesteps) >= len(kept):
        return None
    shares = [_share_beside(float(kept[int(timestep)])) for timestep in timesteps]
    if data is None:
        return (*shares, 0.0)
    return (_share_beside(float(kept[int(scheduler.timesteps[begin - 1])] if begin else data)), *shares)


def _share_beside(signal: float) -> float:
    """The share of noise where so much of the data's variance is kept, 0..1."""
    noise = max(1 - signal, 0.0) ** 0.5
    return float(noise / (noise + signal**0.5))


def _ends_without_noise(scheduler: Any, timesteps: Sequence[float], sigmas: Sequence[float] | None) -> bool:
    """Whether the last timestep is no step, but where the last one leads to: nothing is left there to remove.

    Told by its sigma. Without sigmas: a time of 0 that is one more than the steps asked for, and no count of training
    steps, of which 0 is a real one.
    """
    if sigmas is not None:
        return sigmas[len(timesteps) - 1] == 0
    asked = getattr(scheduler, "num_inference_steps", None)
    own = scheduler.timesteps
    counts = isinstance(own, torch.Tensor) and not own.is_floating_point()
    return asked == len(timesteps) - 1 and not counts and timesteps[-1] == 0


@dataclass(frozen=True)
class Loop:
    """What a pipeline says of the loop that it is about to run, as it shows a bar over it.

    Some loops stop before their schedule ends, with noise left: an ensemble of experts hands over (`denoising_end` of
    Stable Diffusion XL), or the last timestep is left out (LTX's long films). The scheduler knows nothing of it.

    Attributes:
        timesteps: the very tensor that the scheduler held when the bar was made.
        over: the times that the bar goes over, where it was given them.
        turns: of the bar, where it was given a number.
        evaluations: what the pipeline itself names as its number of timesteps.
    """

    timesteps: Any
    over: tuple[float, ...] | None = None
    turns: int | None = None
    evaluations: int | None = None

    @classmethod
    def shown(cls, pipeline: Any, iterable: Any, total: Any) -> Loop:
        """What is said as `pipeline` makes a bar over `iterable`, or of `total` turns."""
        timesteps = getattr(getattr(pipeline, "scheduler", None), "timesteps", None)
        if isinstance(iterable, torch.Tensor) and iterable.ndim == 1:
            return cls(timesteps, over=tuple(float(t) for t in iterable.tolist()))
        return cls(timesteps, None, total, getattr(pipeline, "num_timesteps", None))

    def steps(self, scheduler: Any, schedule: Schedule) -> int:
        """How many steps of the schedule the loop goes through: all, unless it is certain that they are fewer.

        A bar over times of the schedule up to one of them is. So is a number of turns, where each of the steps asked
        for has one timestep; elsewhere (Heun, PNDM) bars count steps and not evaluations, and the pipeline's number of
        timesteps counts. The bar must be of this very schedule.
        """
        whole = len(schedule.timesteps)
        if self.timesteps is not scheduler.timesteps:
            return whole
        if self.over is not None:
            first = schedule.timesteps[0]
            left = self.over[self.over.index(first) :] if first in self.over else ()
            return len(left) if left and left == schedule.timesteps[: len(left)] else whole
        asked = getattr(scheduler, "num_inference_steps", None)
        said = self.turns if asked == len(scheduler.timesteps) else self.evaluations
        return said if isinstance(said, int) and 0 < said < whole else whole
