"""How much damage a window of reused steps does to the final latents, foretold from uncached runs alone.

All shares of noise here are s = noise / (signal + noise), and latents are scaled to (1 - s) data + s noise. Then a step
from s to s' under an estimate z of the data leads from x to (s' / s) x + (1 - s' / s) z, whatever the model predicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bwcache.policies.planning import stays
from bwcache.study.tuning.recording import Recording

RIDGE = 1e-3
"""Towards replaying, as a share of the mean square of the estimates."""
TINY = 1e-12
"""In place of a mean square of nothing: what is all zero has no directions to divide by."""


def window_weights(shares: Sequence[float], first: int, end: int) -> tuple[np.ndarray, float]:
    """Return the weight of each step's estimate in the latents at `end`, [N], and that of the latents at `first`."""
    weights = np.zeros(len(shares) - 1)
    left = 1.0
    for k in range(end - 1, first - 1, -1):
        kept = shares[k + 1] / shares[k]
        weights[k] = left * (1 - kept)
        left *= kept
    return weights, left


def damage(recordings: Sequence[Recording]) -> np.ndarray:
    """Return the table of `best_lists`, [N, N, N + 1]: mean square error of the final latents, over runs and entries.

    The estimates that a window's steps would have had, weighted as they enter the latents at its end, are laid beside
    the best sum of the two that were computed last (least squares over all runs). What is left, times what
    stays of it, is the damage.
    """
    shares = recordings[0].shares
    count = len(shares) - 1
    grams = np.mean([one.gram() for one in recordings], axis=0)
    table = np.full((count, count, count + 1), np.inf)
    for first in range(count):
        table[: first + 1, first, first + 1] = 0.0
        for end in range(first + 2, count + 1):
            wanted, _ = window_weights(shares, first, end)
            left = _left(grams, wanted, first)
            table[: first + 1, first, end] = left * stays(shares[end]) ** 2
    return table


def _left(gram: np.ndarray, wanted: np.ndarray, newest: int) -> np.ndarray:
    """What no sum of the estimates at `newest` and at each step before it comes to: mean squares, [newest + 1].

    The last entry is that of `newest` alone.
    """
    with_all = gram @ wanted
    square, whole = float(wanted @ with_all), float(wanted.sum())
    aa = max(float(gram[newest, newest]), TINY)
    alone = square - with_all[newest] ** 2 / aa
    ab, bb = gram[newest, :newest], np.maximum(np.diag(gram)[:newest], TINY)
    ridge = RIDGE * (aa + bb) / 2
    va, vb = with_all[newest] + ridge * whole, with_all[:newest]
    determinant = (aa + ridge) * (bb + ridge) - ab**2
    a, b = (va * (bb + ridge) - vb * ab) / determinant, (vb * (aa + ridge) - va * ab) / determinant
    both = square - 2 * (a * with_all[newest] + b * vb) + a * a * aa + 2 * a * b * ab + b * b * bb
    found: np.ndarray = np.maximum(np.append(both, alone), 0.0)
    return found
