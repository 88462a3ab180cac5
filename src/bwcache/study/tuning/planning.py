"""The best lists of computed steps by a dynamic programme over a table of damage.

A list cuts a run into windows: a computed step and the reused ones behind it. What a window costs depends on where it
begins and ends, and on the computed step before it, whose estimate is used too; what a list costs is their sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plan:
    """A list of computed steps.

    Attributes:
        steps: ascending, from 0.
        damage: foretold, the sum over its windows, in the table's unit.
    """

    steps: tuple[int, ...]
    damage: float


def plans(table: np.ndarray, most: int | None = None) -> dict[int, Plan]:
    """Return for each number of computed steps, 1 to `most`, the list of least damage; exact.

    Args:
        table: [N, N, N + 1]; entry p, i, j is the damage of the window of steps i to j - 1 where p is the computed step
            before i (p = i = 0: there is none). What is no window is not read.
        most: computed steps; None: all.
    """
    count = table.shape[0]
    before, first, end = np.ogrid[:count, :count, : count + 1]
    table = np.where((end > first) & ((before < first) | (first == 0)), table, np.inf)
    most = count if most is None else most
    best = np.full((count, count), np.inf)  # by the last two computed steps
    best[0, 0] = 0.0
    came: list[np.ndarray] = []
    found: dict[int, Plan] = {}
    for used in range(1, most + 1):
        ends = best + table[:, :, count]
        last = np.unravel_index(int(np.argmin(ends)), ends.shape)
        if np.isfinite(ends[last]):
            found[used] = Plan(_traced(came, int(last[0]), int(last[1])), float(ends[last]))
        through = best[:, :, None] + table[:, :, :count]  # p, i, j
        came.append(np.argmin(through, axis=0))
        best = np.min(through, axis=0)
    return found


def _traced(came: list[np.ndarray], before: int, last: int) -> tuple[int, ...]:
    """The list that led to the last two computed steps."""
    steps = [last]
    for origin in reversed(came):
        steps.append(before)
        before, last = int(origin[before, last]), before
    return tuple(reversed(steps))
