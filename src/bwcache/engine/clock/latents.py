"""A few entries of the latents, by which it shows whether they are those of the step before, moved on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ENTRIES = 1024
ALIKE = 0.5
"""The cosine of the latents of two steps of one video; that of two videos is near 0 while there is noise in them."""


class LatentsSample:
    """Some entries of a forward's latents, copied: a sampler may write into its own tensors.

    Args:
        latents: `[B, C, …]`, or `[B, N, C]`.
        channels: how many of C, from the first on, are latents where there are more.
        agree: makes of what this rank sees, whose latents may be a part, what all see that decide together.
    """

    def __init__(self, latents: Tensor, channels: int | None = None, agree: Callable[[bool], bool] = bool) -> None:
        self._agree = agree
        self._form: Any = (latents.shape, latents.dtype, latents.device)
        if channels and latents.ndim > 3 and latents.shape[1] > channels:
            latents = latents[:, :channels]
        flat = latents.detach().reshape(-1)
        self._entries = flat[:: max(1, flat.numel() // ENTRIES)].to(torch.float32, copy=True)

    def jumped_from(self, before: LatentsSample) -> bool:
        """Return whether these are the latents of something else. Reads the device."""
        if self._form != before._form:
            return False  # of another size: what was kept does not fit either
        return self._agree(self._turned_from(before))

    def moved_from(self, before: LatentsSample) -> bool:
        """Return whether these are others, of the same video. Reads the device."""
        if self._form != before._form:
            return False
        other = not torch.equal(self._entries, before._entries)
        return self._agree(other) and not self._agree(other and self._turned_from(before))

    def _turned_from(self, before: LatentsSample) -> bool:
        mine, its = self._entries, before._entries
        return bool(mine @ its < ALIKE * mine.norm() * its.norm())
