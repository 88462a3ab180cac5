"""What the scheduler of a server says of a sampling before it begins: the share of noise at each step.

Both servers have schedulers of their own, with the names and the sigmas of those that they were made after. Known are
those whose text was read; of another one nothing is said, and policies that need it compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowUniPCMultistepScheduler", "WanEulerScheduler")
"""Their sigmas are shares of noise, and what the model predicts is a flow."""
EITHER = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
"""The same where they say so (`use_flow_sigmas`, `flow_prediction`)."""
HOMES = ("diffusers.", "sglang.multimodal_gen.", "vllm_omni.diffusion.")


@dataclass(frozen=True)
class Levels:
    """The noise levels of one sampling.

    Attributes:
        total: number of steps.
        schedule: share of noise at each of them and at the end, 1..0; none: not known.
    """

    total: int
    schedule: tuple[float, ...] = ()

    def at(self, index: int) -> dict[str, Any]:
        """Return what `session.step` is told of a step; nothing where there is no such step."""
        if not 0 <= index < self.total:
            return {}
        said: dict[str, Any] = {"index": index, "total": self.total}
        if self.schedule:
            said |= {"sigma": self.schedule[index], "prediction": "flow", "schedule": self.schedule}
        return said


def levels(scheduler: Any, timesteps: Sequence[Any]) -> Levels:
    """Return the levels of a sampling at these timesteps of a scheduler, as many of the first ones as there are."""
    total, sigmas = len(timesteps), getattr(scheduler, "sigmas", None)
    if not predicts_flow(scheduler) or sigmas is None or len(sigmas) != total + 1:
        return Levels(total)
    shares = tuple(float(sigma) for sigma in sigmas)
    falls = all(after <= before for before, after in pairwise(shares))
    return Levels(total, shares if falls and shares[0] <= 1 and shares[-1] >= 0 else ())


def predicts_flow(scheduler: Any) -> bool:
    """Return whether a scheduler is one of those known here, whose sigmas are shares of noise."""
    name, home, config = type(scheduler).__name__, type(scheduler).__module__, getattr(scheduler, "config", None)
    if not home.startswith(HOMES) or getattr(config, "invert_sigmas", False):
        return False
    says = getattr(config, "prediction_type", "flow_prediction")
    if name in EITHER:
        return says == "flow_prediction" and bool(getattr(config, "use_flow_sigmas", False))
    return name in FLOW and says == "flow_prediction"
