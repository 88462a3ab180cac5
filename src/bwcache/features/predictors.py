"""How the feature of a skipped step is made from computed ones.

A predictor sees the past as `(coordinate, feature)` pairs, newest first; the coordinate is sigma where the scheduler
has one (`Step.coordinate`). Features have any shape. Predictors are settings: they hold no tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bwcache.errors import SettingError, complaint

Past = Sequence[tuple[float, Tensor]]


class Predictor(ABC):
    """Past features -> the feature of a skipped step."""

    @property
    @abstractmethod
    def history(self) -> int:
        """How many computed features are kept (each one hidden state per branch)."""

    @property
    def damped(self) -> bool:
        """Whether it is told how much of its last prediction was right."""
        return False

    @abstractmethod
    def predict(self, past: Past, coordinate: float, damping: float = 1.0) -> Tensor:
        """The feature at `coordinate`; a new tensor, never one of the past ones.

        Args:
            past: computed features, newest first.
            coordinate: of the feature wanted.
            damping: 0..1, for predictors that are `damped`: how far to go from the newest feature to the predicted one.
        """


@dataclass(frozen=True)
class Last(Predictor):
    """The last computed feature, replayed: what the paper does (arXiv 2509.13789, Eq. 8)."""

    @property
    def history(self) -> int:
        """One."""
        return 1

    def predict(self, past: Past, coordinate: float, damping: float = 1.0) -> Tensor:
        """A copy of the newest feature."""
        return past[0][1].clone()


@dataclass(frozen=True)
class Taylor(Predictor):
    """The polynomial through the last `order + 1` computed features, in Lagrange's form: exact on degree `order`.

    Fewer computed features than that give the polynomial of lower degree; one alone is replayed. Features whose
    coordinates coincide (repeated timesteps) count once, the newest wins.
    """

    order: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool) or self.order < 0:
            raise SettingError(complaint(f"order {self.order!r}", "0, 1, 2, …", "choose a small one, such as 1"))

    @property
    def history(self) -> int:
        """One more than the order."""
        return self.order + 1

    def predict(self, past: Past, coordinate: float, damping: float = 1.0) -> Tensor:
        """The polynomial's value at `coordinate`, computed in float32 and returned in the features' dtype."""
        nodes: dict[float, Tensor] = {}
        for node, feature in past[: self.history]:
            nodes.setdefault(node, feature)
        newest = past[0][1]
        if len(nodes) == 1:
            return newest.clone()
        value = torch.zeros_like(newest, dtype=torch.promote_types(newest.dtype, torch.float32))
        for weight, feature in zip(_lagrange(list(nodes), coordinate), nodes.values(), strict=True):
            value.add_(feature, alpha=weight)
        return value.to(newest.dtype)


@dataclass(frozen=True)
class Linear(Predictor):
    """The straight line in sigma through the last two computed features."""

    @property
    def history(self) -> int:
        """Two."""
        return 2

    def predict(self, past: Past, coordinate: float, damping: float = 1.0) -> Tensor:
        """Extrapolates; replays where only one feature is known."""
        if len(past) < 2 or past[0][0] == past[1][0]:
            return past[0][1].clone()
        (near, newest), (far, older) = past[0], past[1]
        return torch.lerp(newest, older, (coordinate - near) / (far - near))


@dataclass(frozen=True)
class Damped(Linear):
    """The straight line in sigma, shortened to what it was worth the last time.

    At every computed step the line can be laid beside the truth: the share of it that would have come closest (least
    squares, over all branches of guidance, cut to 0..1) is taken at the next skipped steps. Where the features go
    straight on it is `Linear`, where they turn it is `Last`.
    """

    @property
    def damped(self) -> bool:
        """Yes."""
        return True

    def predict(self, past: Past, coordinate: float, damping: float = 1.0) -> Tensor:
        """The newest feature, and `damping` of the way to where the line leads."""
        if len(past) < 2 or past[0][0] == past[1][0] or damping == 0:
            return past[0][1].clone()
        (near, newest), (far, older) = past[0], past[1]
        return torch.lerp(newest, older, damping * (coordinate - near) / (far - near))


def _lagrange(nodes: list[float], at: float) -> list[float]:
    """Weights of the values at `nodes` in the interpolating polynomial's value at `at`."""
    weights = []
    for i, node in enumerate(nodes):
        weight = 1.0
        for j, other in enumerate(nodes):
            if i != j:
                weight *= (at - other) / (node - other)
        weights.append(weight)
    return weights
