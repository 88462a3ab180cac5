"""What is done at a site in one forward, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["compute", "reuse"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the reason in words, and the number it rests on (dimensionless; None where there is none)."""

    action: Action
    reason: str
    value: float | None = None

    @property
    def reuses(self) -> bool:
        """Whether the blocks are replayed and not computed."""
        return self.action == "reuse"


def compute(reason: str, value: float | None = None) -> Decision:
    """Run the blocks."""
    return Decision("compute", reason, value)


def reuse(reason: str, value: float | None = None) -> Decision:
    """Replay or predict the blocks' result."""
    return Decision("reuse", reason, value)
