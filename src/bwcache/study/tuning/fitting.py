"""The weights of a plan's estimates, fitted so that each window ends where the uncached run was.

Between the first reused step of a window and its end nothing is computed, so that one estimate leads from the latents
there to those at the end: it is known which one would have led to the uncached latents. The weights come closest to it
(least squares over runs and entries, held to those in use). Fitted on uncached runs they know nothing of the way that
the cache itself has gone; fitted on cached runs, a few times over, they do, and undo some of what windows before did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bwcache.features import Bounded
from bwcache.policies.planned import beyond_newest
from bwcache.study.tuning.recording import Recording
from bwcache.study.tuning.tables import window_weights

HISTORY = 3
"""Estimates in a sum."""
RIDGE = 0.01
"""Towards the weights in use, as a share of the mean square of the differences between estimates."""

LINE = Bounded()
"""What `Planned` follows in windows that make nothing up."""

Rows = tuple[tuple[float, ...], ...]


def as_planned(steps: Sequence[int], shares: Sequence[float]) -> Rows:
    """Return the weights of `Planned`, which knows no model: what a fit begins with.

    Its estimate moves along a line within a window; what that comes to by the window's end is one point of the line.

    Args:
        steps: computed, ascending from 0.
        shares: of noise at each step and after the last one, 1..0.
    """
    found: list[tuple[float, ...]] = []
    made_up = beyond_newest(tuple(shares), frozenset(steps))
    ends = (*steps[1:], len(shares) - 1)
    for place, (step, end) in enumerate(zip(steps, ends, strict=True)):
        reused = range(step + 1, end)
        if not reused or not place:
            found.append((1.0,))
            continue
        gap = shares[steps[place - 1]] - shares[step]
        ways = [made_up.get(k, LINE.length * min((shares[step] - shares[k]) / gap, LINE.reach)) for k in reused]
        weights = window_weights(shares, step + 1, end)[0][step + 1 : end]
        beyond = float(weights @ ways / weights.sum())
        found.append((1 + beyond, -beyond))
    return tuple(found)


def fitted(
    steps: Sequence[int],
    uncached: Sequence[Recording],
    cached: Sequence[Recording],
    rows: Rows,
    history: int = HISTORY,
) -> Rows:
    """Return a plan's weights, for each computed step those of the estimates, newest first; they sum to 1.

    Args:
        steps: computed, ascending from 0.
        uncached: runs that the cached ones are to follow.
        cached: of the same videos, under this plan and `rows`; or the uncached ones again.
        rows: the weights in use.
        history: the longest row.
    """
    count = len(uncached[0].shares) - 1
    ends = (*steps[1:], count)
    found = []
    for place, (step, end, row) in enumerate(zip(steps, ends, rows, strict=True)):
        known = [steps[before] for before in range(place, max(place - history, -1), -1)]
        found.append(_row(known, step + 1, end, uncached, cached, row) if end - step > 1 and len(known) > 1 else (1.0,))
    return tuple(found)


def _row(
    known: Sequence[int],
    first: int,
    end: int,
    uncached: Sequence[Recording],
    cached: Sequence[Recording],
    row: tuple[float, ...],
) -> tuple[float, ...]:
    """The weights in the window of reused steps `first` to `end` - 1, of the estimates of the `known` steps."""
    shares = uncached[0].shares
    kept = shares[end] / shares[first]
    size = len(known) - 1
    square, product = np.zeros((size, size)), np.zeros(size)
    for full, run in zip(uncached, cached, strict=True):
        newest = run.clean[known[0]].astype(np.float64)
        wanted = (full.latents[end] - kept * run.latents[first].astype(np.float64)) / (1 - kept) - newest
        others = np.stack([run.clean[one] for one in known[1:]]).astype(np.float64) - newest
        square += others @ others.T / newest.size
        product += others @ wanted / newest.size
    used = np.zeros(size)
    used[: len(row) - 1] = row[1 : size + 1]
    ridge = RIDGE * float(np.trace(square)) / size + 1e-12
    weights = used + np.linalg.solve(square + ridge * np.eye(size), product - square @ used)
    return (1 - float(weights.sum()), *map(float, weights))
