"""A budget of change: what adds up between computed steps, held against a threshold. For methods that probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import reduce

from bwcache.core import Decision, compute, reuse
from bwcache.policies.base import Observation
from bwcache.policies.guarded import guard

Sums = dict[tuple[str, str], float]
"""What each lane has spent since it last computed."""


def decided(
    observation: Observation, state: Sums, threshold: float, guards: tuple[int, int], cost: Callable[[float], float]
) -> Decision:
    """Return the decision of a site that has just looked, and add what the look costs.

    Args:
        observation: whose `now` holds one change (dimensionless).
        state: of the run.
        threshold: what may be spent, dimensionless.
        guards: steps at the beginning and the end that are always computed.
        cost: of a change.
    """
    lane, guarded = _lane(observation), guard(observation.step, *guards)
    spent = state.pop(lane, 0.0)
    if guarded is not None:
        return guarded
    change = observation.now[0]
    if change is None:
        return compute("nothing to compare with yet")
    spent += cost(change)
    if not math.isfinite(spent):
        return compute("indicator is not finite", spent)
    if spent < threshold:
        state[lane] = spent
        return reuse(f"within the budget ({spent:.4f} < {threshold:g})", spent)
    return compute(f"budget spent ({spent:.4f} >= {threshold:g})", spent)


def begin_anew(observation: Observation, state: Sums) -> None:
    """What is computed, for whatever reason, begins the sum anew."""
    state.pop(_lane(observation), None)


def polynomial(coefficients: Iterable[float], change: float) -> float:
    """Return the value of a polynomial at a change; the highest power comes first."""
    return reduce(lambda value, coefficient: value * change + coefficient, coefficients, 0.0)


def _lane(observation: Observation) -> tuple[str, str]:
    return (observation.denoiser, observation.step.lane)
