"""What a predictor would have made of a feature that was computed: its error, for free.

Compared are samples, so that no second feature is made and none need be at hand in full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bwcache.features.predictors import Predictor
from bwcache.features.sampling import every, order, stride

FEWEST, MOST = 512, 16384
"""So many entries of a feature are compared, a fortieth in between: the error of 512 is known to a few percent."""


class Foretelling:
    """The samples of one site in one lane, as many of the past as the predictor reads.

    Args:
        predictor: which is put to the test.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._past: list[tuple[float, Tensor]] = []
        self._kind: tuple[object, ...] = ()
        self._axes: tuple[int, ...] | None = None

    def compare(self, feature: Tensor, coordinate: float, damping: float) -> Tensor | None:
        """Takes a computed feature `[B, …, C]`, and says how well it was foretold; None where there is no past.

        Args:
            feature: of any shape; another one than before forgets the past.
            coordinate: where it stands.
            damping: as the predictor was told in the steps before.

        Returns:
            `[4]` float32: ||feature - predicted||_1, ||feature||_1, and with d the predictor's own way from the last
            feature (undamped) and e the true one: <d, e> and <d, d>.
        """
        kind = (feature.shape, feature.dtype, feature.device)
        if kind != self._kind:
            self._past.clear()
            self._kind, self._axes = kind, order(feature)
        sample = every(_step(feature), feature, 0, torch.float32, self._axes)
        told = self._told(sample, coordinate, damping) if self._past else None
        self._past.insert(0, (coordinate, sample))
        del self._past[self._predictor.history :]
        return told

    def _told(self, sample: Tensor, coordinate: float, damping: float) -> Tensor:
        newest = self._past[0][1]
        moved, foretold = sample - newest, self._predictor.predict(self._past, coordinate) - newest
        missed = torch.sub(moved, foretold, alpha=damping if self._predictor.damped else 1.0)
        sizes = torch.stack((missed, sample)).abs_().sum(1)
        return torch.cat((sizes, torch.stack((moved, foretold)) @ foretold))

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(sample.nbytes for _, sample in self._past)


def planned_bytes(feature: Tensor, predictor: Predictor) -> int:
    """Bytes that the samples of one site and lane will weigh, if its features are like this one."""
    return predictor.history * (feature.numel() // _step(feature)) * torch.float32.itemsize


def _step(feature: Tensor) -> int:
    """n, of which every n-th entry is compared."""
    entries = min(max(feature.numel() // 40, FEWEST), MOST)
    return stride(feature, 1, min(entries / max(feature.numel(), 1), 1.0))
