"""Which steps to compute: a dynamic programme over what holding the clean estimate costs.

Between two computed steps i and j a denoiser's estimate of the clean latents is held. What that does to the latents
at j can be foretold from three things, none of which knows the video, the scheduler or the number of steps:

1. *Drift*. How far apart the estimates at two noise levels lie, relative to the clean latents: |P(s) - P(t)| ** H with
   one rising curve P of the noise. Estimates hardly move while there is nothing but noise, then turn quickly where the
   layout is decided, and settle.
2. *Exposure*. Going from noise s to t, latents keep t / s of what they were and take the rest from the estimate.
3. *Response*. What becomes of an error at noise s by the end of the run: early ones persist, or grow, since the layout
   hangs on them; in the middle the denoiser takes most of them back; at the end nothing is left to do so.

The damage of a window is the error of the latents at its end times the response there; of the last one, half of it is
seen in the frames. Errors of different windows are as good as independent, so their squares add up; and the cheapest
list for a given sum of squares, or the best one of so many steps, is what a dynamic programme finds.

Both curves were measured on the shapes model: the drift at shifts of 1, 3 and 5, the response at 1 and 5
(docs/planned.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bwcache.policies.lists import best_lists

Curve = tuple[tuple[float, float], ...]
"""(noise, value), by falling noise; straight lines in between."""

DRIFT: Curve = (
    (1.0, 0.0),
    (0.995, 0.0703),
    (0.99, 0.1991),
    (0.98, 0.4408),
    (0.97, 0.8618),
    (0.955, 1.5287),
    (0.94, 1.9198),
    (0.92, 2.3163),
    (0.9, 2.5123),
    (0.86, 2.6591),
    (0.8, 2.7888),
    (0.7, 2.919),
    (0.6, 2.9993),
    (0.5, 3.0532),
    (0.4, 3.0915),
    (0.3, 3.1212),
    (0.2, 3.1465),
    (0.1, 3.1647),
    (0.05, 3.1724),
    (0.0, 3.1725),
)
POWER = 0.745
RESPONSE: Curve = (
    (1.0, 1.0),
    (0.95, 0.85),
    (0.86, 0.6),
    (0.8, 0.45),
    (0.7, 0.3),
    (0.6, 0.25),
    (0.5, 0.18),
    (0.3, 0.17),
    (0.17, 0.25),
    (0.1, 0.36),
    (0.03, 0.56),
    (0.0, 1.0),
)
LONGEST = 64
"""Steps that a window may span."""
SEEN_AT_THE_END = 0.5
"""How much of an error of the last window, after which no noise is left, is seen in the frames.
It was found on 16 videos: where the last of 7 to 12 computed steps is left out, next to nothing changes in the frames
(docs/experiments/worth.md)."""


def at(curve: Curve, noise: float) -> float:
    """Return the curve's value at a noise level, 1..0."""
    place = min(max(bisect_left(curve, -noise, key=lambda point: -point[0]), 1), len(curve) - 1)
    (high, above), (low, below) = curve[place - 1], curve[place]
    share = min(max((high - noise) / (high - low), 0.0), 1.0)
    return above + share * (below - above)


def stays(noise: float) -> float:
    """Return what stays of an error of the latents at a noise level, 1..0, and is seen in the frames: 0..1."""
    return at(RESPONSE, noise) * (1.0 if noise > 0 else SEEN_AT_THE_END)


class Window:
    """A window that begins with a computed step and goes on step by step: the error of the latents so far.

    Args:
        noise: at its first step, 1..0.
    """

    def __init__(self, noise: float) -> None:
        self.progress = [at(DRIFT, noise)]
        self.shares = [0.0]
        self.variance = 0.0

    def go(self, noise: float, next_noise: float) -> float:
        """Return the squared damage once the window has made a step from one noise level to the next."""
        kept = next_noise / noise if noise > 0 else 1.0
        here = at(DRIFT, noise)
        if len(self.progress) > 1 or here != self.progress[0]:
            self.progress.append(here)
            self.shares.append(0.0)
        self.shares = [share * kept for share in self.shares]
        drift = [abs(here - each) ** (2 * POWER) for each in self.progress]
        first = [abs(each - self.progress[0]) ** (2 * POWER) for each in self.progress]
        common = sum(
            share * (first[-1] + one - apart) / 2 for share, one, apart in zip(self.shares, first, drift, strict=True)
        )
        self.variance = self.variance * kept**2 + 2 * (1 - kept) * common + (1 - kept) ** 2 * first[-1]
        self.shares[-1] += 1 - kept
        return max(self.variance, 0.0) * stays(next_noise) ** 2


@lru_cache(maxsize=64)
def damages(schedule: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Return the squared damage of every window: entry [i][n] of one that begins with step i and holds n more.

    Args:
        schedule: share of noise at each step and after the last one, 1..0.
    """
    found = []
    for first in range(len(schedule) - 1):
        window, row = Window(schedule[first]), []
        for step in range(first, min(len(schedule) - 1, first + LONGEST)):
            row.append(window.go(schedule[step], schedule[step + 1]))
        found.append(tuple(row))
    return tuple(found)


def best(windows: Sequence[Sequence[float]], enough: float | None = None, computed: int | None = None) -> list[int]:
    """Return the computed steps of the list with the least sum of squared damages.

    Args:
        windows: see `damages`.
        enough: the shortest list whose sum stays within it is wanted; the list of all steps has none. All steps, too,
            where no damage is known.
        computed: a list of exactly so many steps is wanted instead, at most all of them; of more, where no window
            may be as long as that takes.
    """
    total = len(windows)
    table = np.full((1, total, total + 1), np.inf)
    for first, row in enumerate(windows):
        table[0, first, first + 1 : first + 1 + len(row)] = row
    lists = best_lists(table)
    if computed is None:
        found = (one.steps for one in lists if one.damage <= (enough or 0.0) or len(one.steps) == total)
    else:
        found = (one.steps for one in lists if len(one.steps) >= min(computed, total))
    return list(next(found, range(total)))


MADE_UP, MOST_MADE_UP = 0.9, 1.2
"""Share of what a window missed that the next one makes up, and the most of a difference of estimates that it may take.
The weights that `bwcache tune` fits come to that share (docs/experiments/worth.md)."""
EARLY = 0.9
"""Noise above which they do so in all lists; below, in long windows, they do less."""


def made_up(before: float, noise: float, end: float) -> float:
    """Return how far a window's estimate goes on beyond the newest one, in differences of the last two.

    The window before has filled a share of the latents with an estimate that was too old by then. What the denoiser
    will not take back of that is made up by the share that this window fills.

    Args:
        before: noise at the computed step before, 1..0.
        noise: at the window's first step, below `before`.
        end: after its last step, below `noise`.
    """
    missed = (before - noise) / before * at(RESPONSE, noise)
    return float(min(MADE_UP * missed * end / (noise - end), MOST_MADE_UP))


def carried(noise: float, there: float, before: float) -> float:
    """Return the damage, as foretold, of latents that are carried on along an estimate: how far that is off by then.

    Args:
        noise: where they are carried from, 1..0.
        there: to where.
        before: where the estimate was made.
    """
    drift = abs(at(DRIFT, there) - at(DRIFT, before)) ** POWER
    return float((1 - there / noise) * drift * at(RESPONSE, noise))


def foretold(windows: Sequence[Sequence[float]], steps: Sequence[int]) -> float:
    """Return the damage that a list of computed steps does, as foretold: relative error of the final latents."""
    ends = [*steps[1:], len(windows)]
    return float(sum(windows[i][j - i - 1] for i, j in zip(steps, ends, strict=True)) ** 0.5)
