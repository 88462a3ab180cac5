"""How the samples of a batch lie in its tensors, and how a forward runs on some of them.

A batch holds `samples` videos; with guidance in one forward each of them has one row per guidance branch, the branches
one after the other: `[u0, u1, c0, c1]` is two samples in two branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a forward: `samples` that are told apart, in `branches` each; along `axis` inside the blocks."""

    samples: int = 1
    branches: int = 1
    axis: int = 0

    def of(self, tensor: Tensor, sample: int) -> Tensor:
        """The rows of one sample: a view, or all of it where there is only one."""
        if self.samples == 1:
            return tensor
        apart = tensor.unflatten(self.axis, (self.branches, self.samples, -1))
        return apart.select(self.axis + 1, sample).flatten(self.axis, self.axis + 1)

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """The reverse of `of`, for all samples in order."""
        if self.samples == 1:
            return tensors[0]
        apart = [tensor.unflatten(self.axis, (self.branches, -1)) for tensor in tensors]
        return torch.stack(apart, dim=self.axis + 1).flatten(self.axis, self.axis + 2)


def batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What the denoiser works on: the first tensor of at least three sizes, `[B, …]`; None where there is no such."""
    values = [*args, *kwargs.values()]
    return next((value for value in values if isinstance(value, Tensor) and value.ndim >= 3), None)


def listed(count: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an argument is a list of so many plain values: perhaps one per row, perhaps not, so nothing is cut."""
    values = [*args, *kwargs.values()]
    lists = [value for value in values if isinstance(value, list) and len(value) == count]
    return any(not isinstance(item, (Tensor, list, tuple)) for value in lists for item in value)


def branches(latents: Tensor, channels: int | None = None) -> int:
    """How many guidance branches are in one batch: 2 or 3 if it is as many times the same latents. Reads the device.

    Args:
        latents: `[B, C, …]`, or `[B, N, C]`.
        channels: how many of C, from the first on, are latents where there are more.
    """
    if channels and latents.ndim > 3 and latents.shape[1] > channels:
        latents = latents[:, :channels]
    for count in (2, 3):
        parts = latents.chunk(count) if len(latents) % count == 0 else ()
        if parts and all(torch.equal(parts[0], part) for part in parts[1:]):
            return count
    return 1


def chosen(value: Any, samples: Sequence[int], rows: Rows) -> Any:
    """A forward's arguments with the rows of some samples only: every tensor whose first size is the batch is cut."""
    batch = rows.samples * rows.branches
    if isinstance(value, Tensor):
        if value.ndim == 0 or len(value) != batch:
            return value
        index = [branch * rows.samples + sample for branch in range(rows.branches) for sample in samples]
        return value[torch.tensor(index, device=value.device)]
    if type(value) in (list, tuple):
        return type(value)(chosen(item, samples, rows) for item in value)
    if isinstance(value, dict):
        return {key: chosen(item, samples, rows) for key, item in value.items()}
    return value


def merged(outputs: Sequence[Any], groups: Sequence[Sequence[int]], rows: Rows) -> Any:
    """The outputs of forwards on groups of samples as that of one forward on all of them."""
    first = outputs[0]
    if isinstance(first, Tensor):
        parts: dict[int, Tensor] = {}
        for output, samples in zip(outputs, groups, strict=True):
            own = Rows(len(samples), rows.branches)
            parts |= {sample: own.of(output, i) for i, sample in enumerate(samples)}
        return Rows(rows.samples, rows.branches).joined([parts[sample] for sample in sorted(parts)])
    if isinstance(first, dict):
        values = {key: merged([output[key] for output in outputs], groups, rows) for key in first}
        return type(first)(**values) if hasattr(first, "to_tuple") else values
    if isinstance(first, (list, tuple)):
        return type(first)(merged(items, groups, rows) for items in zip(*outputs, strict=True))
    return first


@dataclass(frozen=True, slots=True)
class Outline:
    """What a block returned, without the values: enough for whoever only asks for shapes.

    Attributes:
        kind: of the value: a tensor's, a sequence's, or anything else's.
        size, dtype, device: of a tensor; its first size for one sample.
        items: of a sequence.
        value: anything else, as it was.
    """

    kind: type
    size: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    items: tuple[Outline, ...] = ()
    value: Any = None

    @classmethod
    def of(cls, value: Any, samples: int = 1) -> Outline:
        """The outline of what a block returned for so many samples."""
        if isinstance(value, Tensor):
            return cls(Tensor, (len(value) // samples, *value.shape[1:]), value.dtype, value.device)
        if type(value) in (list, tuple):
            return cls(type(value), items=tuple(cls.of(item, samples) for item in value))
        return cls(object, value=value)

    def filled(self, samples: int = 1, value: float | None = None) -> Any:
        """A value of this outline; what its tensors hold is of no meaning, or everywhere `value`."""
        if self.kind is Tensor:
            made = torch.empty((self.size[0] * samples, *self.size[1:]), dtype=self.dtype, device=self.device)
            return made if value is None else made.fill_(value)
        if self.kind in (list, tuple):
            return self.kind(item.filled(samples, value) for item in self.items)
        return self.value
