"""A scheduler's timesteps as numbers on the host, so that what a pipeline hands on of them need not be read again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostTimesteps:
    """The timesteps of a run, `[T]`, read once.

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
