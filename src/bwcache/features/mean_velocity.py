"""Velocities of skipped steps made into means over the step: for samplers that follow a flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.predictors import Past, Predictor
from bwcache.features.weighted import weighted_sum


@dataclass(frozen=True)
class MeanVelocity(Predictor):
    """The velocity of the step before, and how it turned over the last steps carried on over this one.

    Args:
        lags: for each step of the run, how many steps back it is looked how the velocity turned; 1: it is replayed.
        kept: how many computed velocities are kept: as many as a run computes.
    """

    lags: tuple[int, ...]
    kept: int

    @property
    def history(self) -> int:
        """`kept`."""
        return self.kept

    def predict(self, past: Past, step: Step) -> Tensor:
        """Return the velocity: a sum of the computed ones, added in float32, in their dtype."""
        nodes: dict[int, Tensor] = {}
        for node, feature in past:
            nodes.setdefault(node.index, feature)
        if step.schedule is None:
            return past[0][1].clone()
        weights = _weights(tuple(nodes), step.index, step.schedule, self.lags)
        return weighted_sum(tuple(nodes.values()), weights)


@lru_cache(maxsize=1024)
def _weights(
    computed: tuple[int, ...], index: int, schedule: tuple[float, ...], lags: tuple[int, ...]
) -> tuple[float, ...]:
    rows = velocities(sorted(computed), index, schedule, lags)
    return tuple(map(float, rows[-1].flip(0)))


def velocities(computed: Sequence[int], last: int, schedule: Sequence[float], lags: Sequence[int]) -> Tensor:
    """Return how much of each computed velocity goes into the one that is used at each step, `[steps, computed]`.

    At a skipped step t with lag K, r = t - K: the latents went from x[r] to x[t] with the mean of the velocities that
    were used in between. Half of how far the velocity turned is what it lies from v[r], over the time between:
    J = (v[r] - (x[t] - x[r]) / (t - r)) / (t - r), with times in the schedule's unit. Then v = v[t - 1] - J * dt, with
    dt from this step to the next.

    Args:
        computed: the computed steps, ascending; rows begin at the first of them.
        last: the step of the last row.
        schedule: share of noise at each step and after the last one.
        lags: K for each step; no further back than the first computed one.
    """
    first, places = computed[0], {step: place for place, step in enumerate(computed)}
    used: list[Tensor] = []
    own = torch.eye(len(computed), dtype=torch.float64, device="cpu")
    for step in range(first, last + 1):
        if step in places:
            used.append(own[places[step]])
            continue
        begin = max(step - lags[min(step, len(lags) - 1)], first)
        span = schedule[step] - schedule[begin]
        if span == 0 or begin == step - 1:
            used.append(used[-1])
            continue
        between = range(begin, step)
        mean = torch.stack([(schedule[i + 1] - schedule[i]) * used[i - first] for i in between]).sum(0) / span
        turn = (used[begin - first] - mean) / span
        used.append(used[-1] - turn * (schedule[step + 1] - schedule[step]))
    return torch.stack(used)
