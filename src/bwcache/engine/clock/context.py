"""The cache context: what a diffusers pipeline says around each forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bwcache.engine.clock.signal import Said

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call


@dataclass(frozen=True)
class Context:
    """What a pipeline says around a forward: diffusers' cache context, of whatever version. None: not said."""

    name: str
    step_index: int | None = None
    num_inference_steps: int | None = None
    timestep: Any = None
    sigma: float | None = None


class ContextSignal(Said):
    """The pipeline names the index of each step (Wan)."""

    source = "context"

    @staticmethod
    def index(call: Call) -> int | None:
        """Return the index that is said, or None."""
        return call.context.step_index if call.context else None
