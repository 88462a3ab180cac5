"""How close a predictor would have come to a feature that was computed: its error, for free.

Compared are samples, so that no second feature is made and none need be at hand in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.sampling import every, order, stride

if TYPE_CHECKING:
    from bwcache.features.predictors import Predictor

FEWEST, MOST = 512, 16384
"""So many entries of a feature are compared, a fortieth in between: the error of 512 is known to a few percent."""

NUMBERS = 4
"""How many numbers an error is."""


@dataclass(frozen=True, slots=True)
class PredictionError:
    """How close a predictor would have come to what was computed; sums, so that branches and ranks can be pooled.

    Attributes:
        missed: ||feature - predicted||_1.
        size: ||feature||_1.
        along, square: <d, e> and <d, d>, where d leads from the last feature to the predicted one (all of the way), e
            to the true one.
    """

    missed: float
    size: float
    along: float
    square: float

    def __add__(self, other: PredictionError) -> PredictionError:
        return PredictionError(
            self.missed + other.missed, self.size + other.size, self.along + other.along, self.square + other.square
        )

    @property
    def error(self) -> float:
        """Relative L1 error of the prediction (dimensionless); 0/0 is 0, x/0 is infinite."""
        return ratio(self.missed, self.size)

    @property
    def damping(self) -> float:
        """The share of d that comes closest to e (least squares), cut to 0..1."""
        share = self.along / self.square if self.square > 0 else 0.0
        return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def ratio(numerator: float, denominator: float) -> float:
    """Return their quotient; 0/0 is 0, x/0 is infinite."""
    if denominator == 0:
        return 0.0 if numerator == 0 else math.inf
    return numerator / denominator


class PredictionSamples:
    """Samples of the features of one site in one lane, as many of the past as the predictor reads."""

    def __init__(self) -> None:
        self._past: list[tuple[Step, Tensor]] = []
        self._kind: tuple[object, ...] = ()
        self._axes: tuple[int, ...] | None = None
        self._n = 1

    def compare(
        self, feature: Tensor, step: Step, predictor: Predictor, last: PredictionError | None = None, keep: bool = True
    ) -> Tensor | None:
        """Take a computed feature `[B, …, C]`, and return how well it was predicted; None where there is no past.

        Args:
            feature: of any shape; another one than before forgets the past.
            step: where it stands.
            predictor: which is put to the test.
            last: the error that the predictor was given in the steps before.
            keep: whether it becomes a part of the past.

        Returns:
            `[4]` float32: the fields of `PredictionError`.
        """
        kind = (feature.shape, feature.dtype, feature.device)
        if kind != self._kind:
            self._past.clear()
            self._kind, self._axes, self._n = kind, order(feature), _step(feature)
        sample = every(self._n, feature, 0, torch.float32, self._axes)
        numbers = self._error(sample, step, predictor, predictor.share(last)) if self._past else None
        if keep:
            self._past.insert(0, (step, sample))
            del self._past[predictor.history :]
        return numbers

    def _error(self, sample: Tensor, step: Step, predictor: Predictor, share: float) -> Tensor:
        newest = self._past[0][1]
        moved, predicted = sample - newest, predictor.predict(self._past, step) - newest
        missed = torch.sub(moved, predicted, alpha=share)
        sizes = torch.stack((missed, sample)).abs_().sum(1)
        return torch.cat((sizes, torch.stack((moved, predicted)) @ predicted))

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(sample.nbytes for _, sample in self._past)


def planned_bytes(feature: Tensor, predictor: Predictor) -> int:
    """Return the bytes that the samples of one site and lane will weigh, if its features are like this one."""
    return predictor.history * (feature.numel() // _step(feature)) * torch.float32.itemsize


def _step(feature: Tensor) -> int:
    """n, of which every n-th entry is compared."""
    entries = min(max(feature.numel() // 40, FEWEST), MOST)
    return stride(feature, 1, min(entries / max(feature.numel(), 1), 1.0))
