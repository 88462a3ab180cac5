"""A series in the step index whose derivatives are differences of computed features: forecasts of any order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import factorial

from torch import Tensor

from bwcache.core import Step
from bwcache.core.kinds import is_number
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.features.predictors import MOST_ORDERS, Past, Predictor
from bwcache.features.weighted import weighted_sum


@dataclass(frozen=True)
class Differences(Predictor):
    """F + sum of D[i] * p[i](k) / i! up to `order`, k steps after the last computed one.

    D[0] is the feature, and D[i] the difference of D[i - 1] to the one at the computed step before, over the steps that
    lie between the two. Where every gap is the same this is the polynomial through the computed features.

    Args:
        order: highest difference, 0..9; fewer computed features than it takes give a lower one, and one is replayed.
        contraction: s: p[i](k) is s ** i * H[i](s * k) with the Hermite polynomials of physics; None: k ** i.
    """

    order: int = 1
    contraction: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool) or not 0 <= self.order <= MOST_ORDERS:
            raise SettingError(
                complaint(f"order {shown(self.order)}", f"0 to {MOST_ORDERS}", "choose a small one, such as 1")
            )
        if self.contraction is not None and not (is_number(self.contraction) and 0 < self.contraction <= 1):
            found = f"contraction {shown(self.contraction)}"
            raise SettingError(complaint(found, "a number in (0, 1], or None", "try 0.5"))

    @property
    def history(self) -> int:
        """One more than the order."""
        return self.order + 1

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the series' value at the step, computed in float32 and handed out in the features' dtype."""
        nodes: dict[int, Tensor] = {}
        for node, feature in past[: self.history]:
            nodes.setdefault(node.index, feature)
        return weighted_sum(tuple(nodes.values()), weights(tuple(nodes), step.index, self.contraction))


@lru_cache(maxsize=1024)
def weights(computed: tuple[int, ...], index: int, contraction: float | None = None) -> tuple[float, ...]:
    """Return how much of each computed feature the series takes at a step.

    Args:
        computed: indices of the computed steps, newest first.
        index: of the step that is wanted.
        contraction: as of `Differences`.
    """
    count, ahead = len(computed), index - computed[0]
    differences = [[float(i == j) for j in range(count)] for i in range(count)]  # each as a sum of the features
    found = list(differences[0])
    for order in range(1, count):
        gaps = [computed[i] - computed[i + 1] for i in range(count - order)]
        differences = [
            [(new - old) / gap for new, old in zip(differences[i], differences[i + 1], strict=True)]
            for i, gap in enumerate(gaps)
        ]
        share = _basis(order, ahead, contraction) / factorial(order)
        found = [weight + share * more for weight, more in zip(found, differences[0], strict=True)]
    return tuple(found)


def _basis(order: int, ahead: int, contraction: float | None) -> float:
    """p[order](ahead)."""
    if contraction is None:
        return float(ahead) ** order
    x, below, value = contraction * ahead, 1.0, 2 * contraction * ahead
    for i in range(1, order):
        below, value = value, 2 * x * value - 2 * i * below
    return value * contraction**order
