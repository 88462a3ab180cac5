"""What is done at a site in one forward, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Action = Literal["compute", "reuse", "check"]
"""Run it; make it from the past; or run it, lay it beside what the past would have made of it, and keep nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do at a site, why, and how.

    Attributes:
        action: see `Action`.
        reason: in words; what stands before the first bracket is its kind.
        value: the number it rests on (dimensionless), or None; it goes into the trace.
        how: the predictor that makes the feature, for this reuse alone; None for the policy's own.
        at: of a root that keeps clean latents and is computed: the share of noise, 1..0 as `Step.noise`, at which it is
            evaluated; None: where it is called. What cannot be mapped is evaluated in place, and its reason says why.
    """

    action: Action
    reason: str
    value: float | None = None
    how: Any = None
    at: float | None = None

    @property
    def reuses(self) -> bool:
        """Whether the site is replayed or predicted, and not run."""
        return self.action == "reuse"


def compute(reason: str, value: float | None = None, at: float | None = None) -> Decision:
    """Return the decision to run the site, a denoiser perhaps `at` another noise level."""
    return Decision("compute", reason, value, None, at)


def reuse(reason: str, value: float | None = None, how: Any = None) -> Decision:
    """Return the decision to replay or predict the site's result."""
    return Decision("reuse", reason, value, how)


def check(reason: str, value: float | None = None) -> Decision:
    """Return the decision to run the site and only compare: nothing of it is kept."""
    return Decision("check", reason, value)
