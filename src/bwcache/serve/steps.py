"""Rows of a trace, which come one for each forward and site, as one message for each step of a video."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bwcache.core.trace import Event


class Steps:
    """Gathers the rows of one video and tells each step once, when all its rows are there.

    Args:
        tell: is given what a step came to, ready for JSON.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], object]) -> None:
        self._tell = tell
        self._rows: list[Event] = []

    def add(self, event: Event) -> None:
        """Take a row; one of another step means that the one before is whole."""
        if self._rows and self._rows[0].step != event.step:
            self.end_step()
        self._rows.append(event)

    def end_step(self) -> None:
        """Tell the step whose rows are there, if there is one."""
        rows, self._rows = self._rows, []
        if rows:
            self._tell(step_of(rows))


def step_of(rows: list[Event]) -> dict[str, Any]:
    """Return what the rows of a step amount to.

    The reason and the number that stand for the step are those of its first row that is as the step is.
    """
    reused = sum(row.action == "reuse" for row in rows)
    action = "compute" if not reused else "reuse" if reused == len(rows) else "mixed"
    first = next((row for row in rows if row.action == action), rows[0])
    return {
        "step": first.step,
        "total": first.total,
        "action": action,
        "reason": first.reason,
        "value": first.value if first.value is not None and math.isfinite(first.value) else None,
        "rows": len(rows),
        "reused_rows": reused,
    }
