"""What a denoiser or a block returned, without its tensors: made whole again with others, or filled with one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bwcache.errors import AttachError, complaint
from bwcache.features.shards import Sharding


@dataclass(frozen=True, slots=True)
class Frame:
    """What was returned, without its tensors.

    Attributes:
        leaves: all values in order, None where a tensor was.
        structure: how they are nested.
        dtype: of the prediction.
    """

    leaves: tuple[object, ...]
    structure: pytree.TreeSpec
    dtype: torch.dtype | None = None

    def filled(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return the same with other tensors in it."""
        leaves = [tensors.get(_name(i), leaf) for i, leaf in enumerate(self.leaves)]
        return pytree.tree_unflatten(leaves, self.structure)


def taken_apart(returned: object) -> tuple[dict[str, Tensor], Frame]:
    """Return the tensors by name, the prediction first, and what holds them."""
    leaves, structure = pytree.tree_flatten(returned)
    tensors = {_name(i): leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    dtype = next((tensor.dtype for tensor in tensors.values()), None)
    return tensors, Frame(tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves), structure, dtype)


def prediction(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor: what the denoiser predicts."""
    return next(iter(tensors))


def _name(i: int) -> str:
    return f"returned.{i}"


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
    value: object = None

    @classmethod
    def of(cls, value: object, samples: int = 1) -> Outline:
        """The outline of what a block returned for so many samples."""
        if isinstance(value, Tensor):
            if Sharding.of(value) is not None:
                raise AttachError(
                    complaint(
                        f"a skipped block's value of {tuple(value.shape)} that lies on several ranks (a DTensor)",
                        "blocks that return what they take in",
                        "choose a policy that reuses the denoiser as a whole, such as bwcache.EasyCache()",
                    )
                )
            return cls(Tensor, (len(value) // samples, *value.shape[1:]), value.dtype, value.device)
        if type(value) is list or type(value) is tuple:
            return cls(type(value), items=tuple(cls.of(item, samples) for item in value))
        return cls(object, value=value)

    def filled(self, samples: int = 1, value: float = 0.0) -> Any:
        """Return a value of this outline, whose tensors hold `value` everywhere; zeros where it is none of theirs."""
        if self.kind is Tensor:
            size = (self.size[0] * samples, *self.size[1:])
            own = value if self.dtype is not None and (self.dtype.is_floating_point or self.dtype.is_complex) else 0
            return torch.full(size, own, dtype=self.dtype, device=self.device)
        if self.kind in (list, tuple):
            return self.kind(item.filled(samples, value) for item in self.items)
        return self.value
