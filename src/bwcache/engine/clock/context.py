"""The cache context: what a diffusers pipeline says around each forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Context:
    """What a pipeline says around a forward: diffusers' cache context, of whatever version. None: not said."""

    name: str
    step_index: int | None = None
    num_inference_steps: int | None = None
    timestep: Any = None
    sigma: float | None = None
