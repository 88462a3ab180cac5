"""Guidance in one forward, taken apart for second implementations that are written for a forward of each branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

ORDER = ("uncond", "cond")
"""Of the rows of a batch, in the pipelines of diffusers."""


def halves(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a denoiser's forward that calls this one for each half of its batch, the conditional one first."""

    def both(**kwargs: Any) -> Any:
        cond, uncond = (forward(**{name: _half(value, i) for name, value in kwargs.items()})[0] for i in (1, 0))
        return (torch.cat((uncond, cond)),)

    return both


def _half(value: Any, which: int) -> Any:
    """The rows of one branch of what has a row for each; anything else as it is."""
    rows = isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == len(ORDER)
    return value[which : which + 1] if rows else value
