"""A smooth curve through all that was computed: ridge regression on Chebyshev polynomials in the step index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.differences import weights as line
from bwcache.features.predictors import Past, Predictor
from bwcache.features.weighted import weighted_sum

USUAL_STEPS = 50
"""The axis is as long as this where nobody says how many steps a run has."""


@dataclass(frozen=True)
class Chebyshev(Predictor):
    """The curve's value at the step, and perhaps a share of the line through the last two computed features.

    Args:
        degree: of the highest polynomial, >= 0.
        ridge: weight of the coefficients' squares, > 0: with few features the curve lies below them.
        mix: how much of the curve is taken, 0..1; the rest is the line.
        kept: how many computed features are kept, >= 1.
    """

    degree: int = 4
    ridge: float = 0.1
    mix: float = 1.0
    kept: int = 16

    @property
    def history(self) -> int:
        """`kept`."""
        return self.kept

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the value, computed in float32 and handed out in the features' dtype."""
        nodes: dict[int, Tensor] = {}
        for node, feature in past:
            nodes.setdefault(node.index, feature)
        return weighted_sum(tuple(nodes.values()), self.weights(tuple(nodes), step.index, step.total))

    def weights(self, computed: tuple[int, ...], index: int, total: int | None) -> tuple[float, ...]:
        """Return how much of each computed feature, newest first, is taken at a step."""
        curve = _curve(computed, index, total or USUAL_STEPS, self.degree, float(self.ridge))
        if self.mix == 1:
            return curve
        near = computed[:2]
        ends = (*line(near, index), *(0.0 for _ in computed[len(near) :]))
        return tuple(self.mix * one + (1 - self.mix) * other for one, other in zip(curve, ends, strict=True))


@lru_cache(maxsize=1024)
def _curve(computed: tuple[int, ...], index: int, total: int, degree: int, ridge: float) -> tuple[float, ...]:
    """phi(index) (Phi' Phi + ridge I)^-1 Phi', with a row of polynomials for each computed step."""
    rows, row = _polynomials(computed, total, degree), _polynomials((index,), total, degree)
    square = rows.T @ rows + ridge * torch.eye(degree + 1, dtype=torch.float64, device="cpu")
    return tuple(map(float, (row @ torch.linalg.solve(square, rows.T))[0]))


def _polynomials(steps: tuple[int, ...], total: int, degree: int) -> Tensor:
    """T[0] to T[degree] at these steps, `[steps, degree + 1]`, on an axis from -1 to 1 over the run."""
    place = 2 * torch.tensor(steps, dtype=torch.float64, device="cpu") / total - 1
    found = [torch.ones_like(place), place]
    for _ in range(degree - 1):
        found.append(2 * place * found[-1] - found[-2])
    return torch.stack(found[: degree + 1], dim=1)
