"""What a tuning needs to know of a run, read where the pipeline hands it to its scheduler.

There the branches of guidance are one already, whatever the pipeline does with them, and so are latents that are scaled
on their way into the denoiser. Of both, latents and estimate, a fixed random sample of the entries is kept.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.engine.clock.level import SCALED, level_of, predicted_by
from bwcache.engine.clock.schedule import Schedule
from bwcache.errors import SettingError, complaint
from bwcache.models import BlockSpec

ENTRIES = 65_536
"""Of the latents, so many are looked at."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One run, at a sample of the entries.

    Attributes:
        shares: of noise at each step and after the last, [N + 1], descending 1..0.
        latents: before each step and after the last, scaled to (1 - share) data + share noise, float32 [N + 1, D].
        clean: the estimate of the data that each step was made with, float32 [N, D].
    """

    shares: tuple[float, ...]
    latents: np.ndarray
    clean: np.ndarray

    @staticmethod
    def most_bytes(steps: int) -> int:
        """Return how much memory one of so many steps takes at most; latents of fewer entries take less."""
        return ENTRIES * 4 * (2 * steps + 1)

    def gram(self) -> np.ndarray:
        """Return mean products of the estimates, [N, N]."""
        clean = self.clean.astype(np.float64)
        found: np.ndarray = clean @ clean.T / clean.shape[1]
        return found


class Entries:
    """A fixed random sample of the entries of tensors of one size."""

    def __init__(self) -> None:
        self._chosen: Tensor | None = None

    def of(self, tensor: Tensor) -> np.ndarray:
        """Return those of a tensor, float32."""
        flat = tensor.detach().flatten()
        if self._chosen is None:
            order = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))
            self._chosen = order[:ENTRIES].sort().values.to(flat.device)
        found: np.ndarray = flat[self._chosen.to(flat.device)].float().cpu().numpy()
        return found


class _Recorder:
    """Reads the calls of a scheduler's step."""

    def __init__(self, scheduler: Any, spec: BlockSpec) -> None:
        self._scheduler = scheduler
        self._spec = replace(spec, prediction="direct")  # whatever sign the model has, the scheduler is given this one
        self._schedule: Schedule | None = None
        self._latents: list[np.ndarray] = []
        self._clean: list[np.ndarray] = []
        self._entries = Entries()
        self._end: Tensor | None = None

    def before(self, predicted: Tensor, timestep: Any, latents: Tensor) -> None:
        index = len(self._clean)
        if self._schedule is None:
            begin = getattr(self._scheduler, "begin_index", None) or 0
            self._schedule = Schedule.read(self._scheduler, begin)
        schedule = self._schedule
        if schedule is None or schedule.noises is None or index >= len(schedule.timesteps):
            raise self._unknown()
        sigma = None if schedule.sigmas is None else schedule.sigmas[index]
        level = level_of(self._scheduler, self._spec, Step(0, index, None, schedule.timesteps[index], sigma, "all"))
        if level is None or not level.says_data:
            raise self._unknown()
        if type(self._scheduler).__name__ in SCALED and sigma is not None:
            latents = latents / (1 + sigma**2) ** 0.5
        self._clean.append(self._entries.of(level.clean(latents, predicted)))
        self._latents.append(self._entries.of(latents) / (level.signal + level.noise))

    def after(self, latents: Tensor) -> None:
        self._end = latents

    def finished(self) -> Recording:
        found = len(self._clean)
        if self._schedule is None or self._schedule.noises is None or self._end is None:
            raise self._unknown()
        shares = tuple(self._schedule.noises)
        if found != len(self._schedule.timesteps) or any(a <= b for a, b in pairwise(shares)):
            raise self._unknown()
        latents = np.stack([*self._latents, self._entries.of(self._end)])
        return Recording(shares, latents, np.stack(self._clean))

    def _unknown(self) -> SettingError:
        return _not_told(self._scheduler)


def check_scheduler(scheduler: Any, steps: int) -> None:
    """Raises `SettingError` where it is known before a run of so many steps that its clean latents are not told."""
    if predicted_by(scheduler) is None:
        raise _not_told(scheduler)
    tried = copy.deepcopy(scheduler)
    try:
        tried.set_timesteps(steps)
    except Exception:  # it wants to know more, such as the size of the video: the first run will tell
        return
    schedule = Schedule.read(tried, 0)
    if schedule is None or schedule.noises is None or any(a <= b for a, b in pairwise(schedule.noises)):
        raise _not_told(scheduler)


def _not_told(scheduler: Any) -> SettingError:
    found = f"{type(scheduler).__name__}, of which the clean latents of each step cannot be told"
    return SettingError(complaint(found, "one that is called once a step, such as Euler or UniPC", "name another"))


@contextlib.contextmanager
def recorded(pipe: Any, spec: BlockSpec) -> Iterator[list[Recording]]:
    """Record the one run that is made meanwhile: the list holds it afterwards.

    Args:
        pipe: a pipeline with a scheduler.
        spec: the row of its denoiser.

    Raises:
        SettingError: what the scheduler is given does not tell the clean latents.
    """
    scheduler = pipe.scheduler
    recorder, found = _Recorder(scheduler, spec), list[Recording]()
    own = scheduler.step

    @functools.wraps(own)
    def step(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.before(model_output, timestep, sample)
        made = own(model_output, timestep, sample, *args, **kwargs)
        recorder.after(made[0] if isinstance(made, tuple) else made.prev_sample)
        return made

    scheduler.step = step
    try:
        yield found
    finally:
        del scheduler.step
    found.append(recorder.finished())
