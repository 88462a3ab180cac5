"""A weighted sum of the last computed features, with weights of its own for each computed step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.predictors import Past, Predictor

Row = tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Weighted(Predictor):
    """After each computed step the sum that its row says: of the feature computed there, and of those before.

    The weights belong to a list of computed steps. Where others were computed in between, or none before, they mean
    nothing: what the oldest known one lacks goes to the newest, and a past that is not the list's is replayed.

    Args:
        rows: one for each computed step, in order: the step's index, and the weights of the features, newest first.
    """

    rows: tuple[Row, ...]

    @property
    def history(self) -> int:
        """The length of the longest row."""
        return max((len(weights) for _, weights in self.rows), default=1)

    @cached_property
    def _by_step(self) -> dict[int, tuple[tuple[int, ...], tuple[float, ...]]]:
        """Computed step -> that step and those before it, newest first; and its weights."""
        steps = [step for step, _ in self.rows]
        return {step: (tuple(reversed(steps[: place + 1])), row) for place, (step, row) in enumerate(self.rows)}

    def weights(self, computed: tuple[int, ...]) -> tuple[float, ...]:
        """Return the weights of the features that were computed at these steps, newest first."""
        before, row = self._by_step.get(computed[0], ((), (1.0,)))
        known = computed[: len(row)]
        if known != before[: len(known)]:
            return (1.0,)
        return (row[0] + sum(row[len(known) :]), *row[1 : len(known)])

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the sum, computed in float32 and handed out in the features' dtype."""
        weights = self.weights(tuple(node.index for node, _ in past))
        return weighted_sum([feature for _, feature in past[: len(weights)]], weights)


def weighted_sum(features: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the sum of the features times their weights, added in float32, in the dtype of the first one: a copy."""
    newest = features[0]
    if all(weight == 0.0 for weight in weights[1:]) and weights[0] == 1.0:
        return newest.clone()
    value = newest.to(torch.promote_types(newest.dtype, torch.float32)) * weights[0]
    for weight, feature in zip(weights[1:], features[1:], strict=True):
        value.add_(feature, alpha=weight)
    return value.to(newest.dtype)
