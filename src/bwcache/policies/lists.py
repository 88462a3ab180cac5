"""The best lists of computed steps, exactly: a dynamic programme over what each window of reused steps costs.

A list cuts a run into windows: a computed step and the reused ones behind it. What a window costs depends on where it
begins and ends and, where a table says so, on the computed step before, whose estimate is used too; what a list costs
is their sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class List:
    """Computed steps.

    Attributes:
        steps: ascending, from 0.
        damage: the sum over its windows, in the table's unit.
    """

    steps: tuple[int, ...]
    damage: float


def best_lists(table: np.ndarray) -> Iterator[List]:
    """Yield for each number of computed steps, 1 to N, the list of least damage; none where no list has a finite one.

    Args:
        table: [P, N, N + 1]; entry p, i, j is the damage of the window of steps i to j - 1 where p is the computed step
            before i (p = i = 0: there is none). P is N, or 1 where the step before makes no difference. What is no
            window is not read.
    """
    earlier, count, _ = table.shape
    before, first, end = np.ogrid[:earlier, :count, : count + 1]
    in_order = (before < first) | (first == 0) | (earlier == 1)
    table = np.where((end > first) & in_order, table, np.inf)
    best = np.full((earlier, count), np.inf)  # by the last computed steps: one, or two
    best[0, 0] = 0.0
    came: list[np.ndarray] = []
    for _ in range(count):
        ends = best + table[:, :, count]
        last = np.unravel_index(int(np.argmin(ends)), ends.shape)
        if np.isfinite(ends[last]):
            yield List(_traced(came, int(last[0]), int(last[1])), float(ends[last]))
        through = best[:, :, None] + table[:, :, :count]  # p, i, j
        through = through if earlier > 1 else through.swapaxes(0, 1)  # what is forgotten next comes first
        came.append(through.argmin(axis=0))
        best = through.min(axis=0)


def _traced(came: list[np.ndarray], before: int, last: int) -> tuple[int, ...]:
    """The list that led to the last two computed steps; to the last one where the one before it is not told apart."""
    steps = [last]
    for origin in reversed(came):
        forgotten = int(origin[before, last])
        before, last = (forgotten, before) if len(origin) > 1 else (0, forgotten)
        steps.append(last)
    return tuple(reversed(steps))
