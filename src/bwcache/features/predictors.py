"""How the feature of a skipped step is made from computed ones.

A predictor sees the past as `(step, feature)` pairs, newest first, and the step that is wanted; most read no more of a
step than its `coordinate`. Features have any shape. Predictors are settings: they hold no tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.core.kinds import between
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.features.prediction_error import PredictionError
from bwcache.former_names import reads_former_fields, takes_former_methods

MOST_ORDERS = 9
"""Beyond that a polynomial through computed features is rounding, and a hidden state more for each order."""

LARGEST_FACTOR = 100.0
"""So many times a feature, or the difference of two, is more than any sum that is meant to be near one has."""
FACTOR = between(-LARGEST_FACTOR, LARGEST_FACTOR)

Past = Sequence[tuple[Step, Tensor]]


@reads_former_fields
class Predictor(ABC):
    """Past features -> the feature of a skipped step."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        takes_former_methods(cls, "Predictor")

    @property
    @abstractmethod
    def history(self) -> int:
        """How many computed features are kept per branch: hidden states, or tensors of the latents' shape at a root."""

    @property
    def needs_errors(self) -> bool:
        """Whether it asks how close it would have come at the last computed step: then that is measured."""
        return False

    def share(self, error: PredictionError | None) -> float:
        """Return how much of the way from the newest feature to the predicted one is gone, 0..1.

        Args:
            error: of the last computed step of this sample and site; None where none was measured.
        """
        return 1.0

    def adapted_to(self, error: PredictionError | None) -> Predictor:
        """Return the predictor that goes its `share` of the way: by default itself."""
        return self

    @abstractmethod
    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the feature at `step`: a new tensor, never one of the past ones.

        Args:
            past: computed features and their steps, newest first.
            step: whose feature is wanted.
        """


@dataclass(frozen=True)
class Last(Predictor):
    """The last computed feature, replayed: what the paper does (arXiv 2509.13789, Eq. 8)."""

    history: ClassVar[int] = 1

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return a copy of the newest feature."""
        return past[0][1].clone()


@dataclass(frozen=True)
class Taylor(Predictor):
    """The polynomial through the last `order + 1` computed features, in Lagrange's form: exact on degree `order`.

    Fewer computed features than that give the polynomial of lower degree; one alone is replayed. Features whose
    coordinates coincide (repeated timesteps) count once, the newest wins.
    """

    order: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool) or not 0 <= self.order <= MOST_ORDERS:
            raise SettingError(
                complaint(f"order {shown(self.order)}", f"0 to {MOST_ORDERS}", "choose a small one, such as 1")
            )

    @property
    def history(self) -> int:
        """One more than the order."""
        return self.order + 1

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the polynomial's value at the step, computed in float32 and handed out in the features' dtype."""
        nodes: dict[float, Tensor] = {}
        for node, feature in past[: self.history]:
            nodes.setdefault(node.coordinate, feature)
        newest = past[0][1]
        if len(nodes) == 1:
            return newest.clone()
        value = torch.zeros_like(newest, dtype=torch.promote_types(newest.dtype, torch.float32))
        for weight, feature in zip(_lagrange(list(nodes), step.coordinate), nodes.values(), strict=True):
            value.add_(feature, alpha=weight)
        return value.to(newest.dtype)


@dataclass(frozen=True)
class Linear(Predictor):
    """The straight line in sigma through the last two computed features."""

    history: ClassVar[int] = 2

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return where the line leads; replays where only one feature is known."""
        return _along(past, step, 1.0)


@dataclass(frozen=True)
class Along(Predictor):
    """A share of the way along the straight line in sigma: 0 replays, 1 is `Linear`, above 1 goes beyond it."""

    length: float = 1.0

    def __post_init__(self) -> None:
        if not FACTOR.holds(self.length):
            raise SettingError(complaint(f"length {shown(self.length)}", FACTOR.name, "try 1"))

    history: ClassVar[int] = 2

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the newest feature, and `length` of the way to where the line leads."""
        return _along(past, step, self.length)


@dataclass(frozen=True)
class Extended(Predictor):
    """From the last but one computed feature towards the last one, and beyond it: 1 replays, whatever the steps are."""

    length: float = 1.0

    def __post_init__(self) -> None:
        if not FACTOR.holds(self.length):
            raise SettingError(complaint(f"length {shown(self.length)}", FACTOR.name, "try 1.2"))

    history: ClassVar[int] = 2

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the feature `length` times as far from the older one as the newer one is; one alone is replayed."""
        newest = past[0][1]
        if len(past) < 2 or self.length == 1:
            return newest.clone()
        older = past[1][1]
        return older + (newest - older) * self.length


@dataclass(frozen=True)
class Bounded(Predictor):
    """A part of the line in the share of noise, which goes no further on than the gap behind it allows.

    Made for estimates of the clean latents: they turn, and a whole line would overshoot (docs/planned.md).

    Args:
        length: share of the way along the line: 0 replays, 1 goes all of it.
        reach: how far the line is followed at most, in gaps between the last two computed steps, >= 0.
    """

    length: float = 0.3
    reach: float = 1.5

    def __post_init__(self) -> None:
        for name, value in (("length", self.length), ("reach", self.reach)):
            if not between(0, LARGEST_FACTOR).holds(value):
                expected = between(0, LARGEST_FACTOR).name
                raise SettingError(complaint(f"{name} {shown(value)}", expected, "try 0.3 and 1.5"))

    history: ClassVar[int] = 2

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return where the line leads within its reach; replays where one feature or no noise level is known."""
        newest = past[0][1]
        if len(past) < 2 or self.length == 0:
            return newest.clone()
        (near, _), (far, older) = past[0], past[1]
        if step.noise is None or near.noise is None or far.noise is None or near.noise == far.noise:
            return newest.clone()
        gaps = min((step.noise - near.noise) / (near.noise - far.noise), self.reach)
        return torch.lerp(newest, older, -self.length * gaps)


@dataclass(frozen=True)
class Damped(Linear):
    """The straight line in sigma, shortened to what it was worth the last time.

    At every computed step the line can be laid beside the truth: the share of it that would have come closest (least
    squares, over all branches of guidance, cut to 0..1) is taken at the next skipped steps. Where the features go
    straight on it is `Linear`, where they turn it is `Last`.
    """

    @property
    def needs_errors(self) -> bool:
        """Yes."""
        return True

    def share(self, error: PredictionError | None) -> float:
        """Return what would have come closest the last time; all of it where that is not known."""
        return 1.0 if error is None else error.damping

    def adapted_to(self, error: PredictionError | None) -> Predictor:
        """Return the line, as long as that."""
        return Along(self.share(error))


def _along(past: Past, step: Step, length: float) -> Tensor:
    if len(past) < 2 or length == 0:
        return past[0][1].clone()
    (near, newest), (far, older) = past[0], past[1]
    at = near.coordinate
    if at == far.coordinate:
        return newest.clone()
    return torch.lerp(newest, older, length * (step.coordinate - at) / (far.coordinate - at))


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
