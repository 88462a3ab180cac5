"""Which of a scheduler's timesteps a denoiser is given: told by where these lie in memory, or else by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Time

_FORMS: tuple[Callable[[float], float], ...] = (
    lambda t: t,
    lambda t: 1000 - t,  # Mochi
    lambda t: 1000 * t,
    lambda t: 1000 * (1 - t),  # Lumina, Z-Image
)
"""How models name the scheduler's timestep, undone."""


def numbers(values: Any) -> list[float] | None:
    """Return what a scheduler holds as its times or sigmas: a row of numbers, of whatever kind; None for anything else.

    Reads the device.
    """
    if not isinstance(values, (list, tuple)):
        if getattr(values, "ndim", 0) != 1 or not hasattr(values, "tolist"):
            return None
        values = values.tolist()
    plain = all(isinstance(value, (int, float)) for value in values)
    return [float(value) for value in values] if plain else None


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
    value, times = time.value, numbers(getattr(scheduler, "timesteps", None))
    if value is None or times is None:
        return -1
    listed = {i: t for i, t in enumerate(times) if at in (None, i)}
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


class HostTimesteps:
    """The timesteps of a run, `[T]`, read once: what a pipeline hands on of them need not be read again.

    Pipelines hand the denoiser `timesteps[i]` or `timesteps[i].expand(batch)`: views, which lie where the scheduler's
    own numbers lie. Their place tells which of them it is, without a look at the device.
    """

    def __init__(self, timesteps: Any) -> None:
        plain = isinstance(timesteps, Tensor) and timesteps.ndim == 1 and len(timesteps) > 0
        self._tensor: Tensor | None = timesteps if plain else None
        self._place = 0 if self._tensor is None else _place(self._tensor)
        if self._tensor is not None and self._place:
            self._values = [float(value) for value in self._tensor.tolist()]
            self._version = _version(self._tensor)

    def value(self, timestep: Any) -> float | None:
        """Return the number that a view of one of the timesteps has, or None for anything else."""
        index = self.index(timestep)
        return None if index is None else self._values[index]

    def index(self, timestep: Any) -> int | None:
        """Return which of the timesteps a view is of, or None for anything else."""
        listed = self._tensor
        if listed is None or not isinstance(timestep, Tensor) or not timestep.numel() or timestep.dtype != listed.dtype:
            return None
        spread = any(size > 1 and step for size, step in zip(timestep.shape, timestep.stride(), strict=True))
        if spread or not self._place or _place(timestep) != self._place or _version(listed) != self._version:
            return None
        index, off = divmod(int(timestep.storage_offset() - listed.storage_offset()), max(listed.stride(0), 1))
        return None if off or not 0 <= index < len(listed) else index


def _place(tensor: Tensor) -> int:
    """Where the tensor's memory begins; 0 where it has none of its own."""
    return tensor.untyped_storage().data_ptr() if type(tensor) is Tensor and tensor.device.type != "meta" else 0


def _version(tensor: Tensor) -> int | None:
    """How often it was written into, where torch counts that."""
    return None if torch.is_inference(tensor) else tensor._version
