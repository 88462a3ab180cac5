"""The time that a denoiser is given, and which of a scheduler's timesteps it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bwcache.engine.clock.host_timesteps import HostTimesteps


def scalar(timestep: Any) -> float | None:
    """Return a timestep argument as a number: the maximum of one per sample, frame or token. Reads the device."""
    if timestep is None:
        return None
    if isinstance(timestep, Tensor):
        if timestep.numel() == 1:
            return float(timestep.item())
        return float(timestep.max().item()) if timestep.numel() else None
    return float(timestep)


class Time:
    """A timestep argument, read from the device at most once, and only if somebody asks."""

    def __init__(self, argument: Any, listed: HostTimesteps | None = None) -> None:
        self._argument, self._listed = argument, listed

    @cached_property
    def value(self) -> float | None:
        """The number; not read at all where the pipeline handed on one of the scheduler's."""
        known = None if self._listed is None else self._listed.value(self._argument)
        return scalar(self._argument) if known is None else known

    @property
    def place(self) -> int | None:
        """Which of the scheduler's timesteps it is, where the pipeline handed that on; else None."""
        return None if self._listed is None else self._listed.index(self._argument)

    @property
    def entries(self) -> int:
        """How many numbers there are: samples, frames or tokens may have times of their own."""
        return self._argument.numel() if isinstance(self._argument, Tensor) else 1

    @cached_property
    def mean(self) -> float:
        """Of all entries of a tensor; added up on the host, since not every device has numbers of 64 bits."""
        return float(self._argument.detach().cpu().flatten().to(torch.float64).mean())

    @property
    def is_rounded(self) -> bool:
        """Whether it is of a type that rounds neighbours to the same number."""
        return isinstance(self._argument, Tensor) and self._argument.dtype in (torch.bfloat16, torch.float16)

    def since(self, before: Time) -> int:
        """Return the sign of the change since another time; of the mean where the maximum stands still."""
        new, old = self.value, before.value
        if new is None or old is None:
            return 0
        if new == old and self.entries == before.entries > 1:
            new, old = self.mean, before.mean
        return (new > old) - (new < old)


_FORMS: tuple[Callable[[float], float], ...] = (
    lambda t: t,
    lambda t: 1000 - t,  # Mochi
    lambda t: 1000 * t,
    lambda t: 1000 * (1 - t),  # Lumina, Z-Image
)
"""How models name the scheduler's timestep, undone."""


def is_near(value: float, listed: float, forms: Sequence[Callable[[float], float]] = _FORMS) -> bool:
    """Return whether a model's timestep is the scheduler's, in one of the forms and as far as bfloat16 can tell."""
    return any(abs(listed - form(value)) <= abs(listed) / 256 + 1e-3 for form in forms)


def place(time: Time, scheduler: Any, at: int | None = None) -> int:
    """Return where in the scheduler's timesteps this one stands, the first of the nearest; -1 where nowhere.

    Args:
        at: only look at this position.
    """
    if time.place is not None:
        return time.place if at in (None, time.place) else -1
    value, timesteps = time.value, getattr(scheduler, "timesteps", None)
    if value is None or timesteps is None or getattr(timesteps, "ndim", 1) != 1:
        return -1
    listed = {i: float(t) for i, t in enumerate(timesteps.tolist()) if at in (None, i)}
    plain = value > 1 and any(is_near(value, t, _FORMS[:1]) for t in listed.values())  # 400 is not 600 backwards
    forms = _FORMS[:1] if plain else _FORMS
    near = [i for i, t in listed.items() if is_near(value, t, forms)]
    return min(near, key=lambda i: min(abs(listed[i] - form(value)) for form in forms), default=-1)


def exact_place(time: Time, scheduler: Any) -> int:
    """Return where in the scheduler's timesteps this very one stands; 0 where it was rounded or is not there."""
    found = place(time, scheduler)
    if found <= 0:
        return 0
    value, listed = time.value, float(scheduler.timesteps[found])
    assert value is not None
    return found if any(abs(listed - form(value)) <= 1e-2 for form in _FORMS) else 0
