"""What a denoiser returns, taken apart into its tensors and put together again: a tensor, a tuple, an output object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


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
