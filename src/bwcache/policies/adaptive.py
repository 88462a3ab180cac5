"""Adaptive: as long a window as the prediction error allows. A method of this project; no paper.

BWCache asks how much the blocks' outputs change from one step to the next. That depends on how long the steps are, and
says nothing of what reuse will cost. Two things do, and both are free:

1. At every computed step the predictor's feature can be laid beside the true one. This *error*, over the stretch of
   noise since the last computed step, says how fast predictions go wrong here.
2. A wrong feature is a wrong velocity, and moves the latents by as much as it is wrong times the noise that the step
   takes away. So the *damage* of a window is the sum, over its steps, of error times step in noise. Measured on
   single windows of the shapes model from the sixth step on, the true damage over this sum lies mostly between .4 and
   1.3, while the damage itself goes over two orders of magnitude.

A window goes on as long as its damage stays below the tolerance: the way in which the local error sets the step size of
an embedded ODE solver. Equal damage in every window is also the cheapest way to a given total, since windows are long
where little goes wrong.

The error of a prediction that reaches from noise s0 to s is taken to grow as |ln(s / s0)| ** 1.4, which follows the
features both in the middle and at the end, where they turn quickly. Early in the run, above a noise of .7, a deviation
is amplified by all that follows, so damage weighs more there: (.3 / (1 - s)) ** 2. Both exponents were found on the
shapes model, at a shift of 1 and of 3 with one set of values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bwcache.core import Decision, Step, compute, reuse
from bwcache.features import Damped, PredictionError, Predictor
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, expect_predictor, number
from bwcache.policies.entry import Entry

GROWTH = 1.4
EARLY, AMPLIFIED = 0.3, 2.0
LEAST_NOISE = 0.002


@dataclass
class Decider:
    """What is known of the branches that decide together.

    Attributes:
        computed: the noise at the last computed step; before any, None.
        reach: |ln| of the noise from the computed step before it to the last one.
        last_error: how close the predictor would have come at the last computed step, pooled over the branches.
        spent: damage of the window so far.
    """

    computed: float | None = None
    computed_at: int = -1
    reach: float = 0.0
    last_error: PredictionError | None = None
    spent: float = 0.0
    decided_at: int = -1
    decision: Decision = field(default_factory=lambda: compute("first step"))


@dataclass
class State:
    """Those of one run: one for each sample that decides for itself."""

    deciders: dict[int | None, Decider] = field(default_factory=dict)


@dataclass(frozen=True)
class Adaptive(Policy[State]):
    """Reuses the whole stack of blocks while the damage that this does, as foretold, stays within a tolerance.

    Args:
        tolerance: damage of one window (dimensionless: relative error of the blocks' last output times noise), >= 0.
            The one number to choose: it means about the same quality with any scheduler, shift and number of steps.
            0 never reuses.
        warmup: share of the run that is always computed at its beginning, 0..1, counted half in steps and half in
            noise (`Step.progress`). The first two steps always are.
        predictor: how a skipped feature is made: `Damped()` goes as far along the line as was right the last time.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2",
        reads="how close its forecast came, at each computed step",
        verified="a second implementation of its decisions, and by hand at its edges",
        origin="this project",
    )

    tolerance: float = 0.02
    warmup: float = 0.1
    predictor: Predictor = field(default_factory=Damped)

    def __post_init__(self) -> None:
        expect(number(self.tolerance) and self.tolerance >= 0, "tolerance", self.tolerance, "a number >= 0", "0.02")
        expect(number(self.warmup) and 0 <= self.warmup <= 1, "warmup", self.warmup, "a share 0..1", "0.1")
        expect_predictor(self.predictor, "bwcache.Damped()")

    @property
    def feature_predictor(self) -> Predictor:
        """`predictor`."""
        return self.predictor

    @property
    def may_reuse(self) -> bool:
        """Not with a tolerance of 0."""
        return self.tolerance > 0

    @property
    def needs_errors(self) -> bool:
        """They are what it decides by."""
        return self.may_reuse

    def init(self) -> State:
        """Nothing computed, nothing spent."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """The branches that decide together follow the first one's decision of each step."""
        step = observation.step
        decider = state.deciders.setdefault(step.sample, Decider())
        if decider.decided_at != step.index:
            decider.decided_at, decider.decision = step.index, self._decide(step, decider)
        return decider.decision

    def refresh(self, observation: Observation, state: State) -> None:
        """Takes note of a computed step: where it stood, and how close the predictor would have come."""
        step, error = observation.step, observation.error
        decider = state.deciders.setdefault(step.sample, Decider())
        if decider.computed_at == step.index:
            decider.last_error = decider.last_error + error if decider.last_error and error else None
            return
        before, decider.reach = decider.computed, 0.0
        if before is not None and step.noise is not None:
            decider.reach = _distance(before, step.noise)
        decider.computed, decider.computed_at = step.noise, step.index
        decider.last_error, decider.spent = error, 0.0

    def _decide(self, step: Step, decider: Decider) -> Decision:
        if step.noise is None or step.next_noise is None or decider.computed is None:
            return compute("noise level unknown: pass steps= where nobody says it")
        if (step.progress or 0.0) < self.warmup - 1e-9:
            return compute(f"warm-up (the first {self.warmup:.0%} of the run)")
        if decider.last_error is None or decider.reach == 0:
            return compute("no prediction to compare with yet")
        if not math.isfinite(decider.last_error.error):
            return compute("prediction error is not finite", decider.last_error.error)
        error = decider.last_error.error * (_distance(decider.computed, step.noise) / decider.reach) ** GROWTH
        damage = decider.spent + error * _weight(step.noise, step.next_noise) * abs(step.noise - step.next_noise)
        if damage > self.tolerance:
            return compute(f"damage would exceed the tolerance ({damage:.4f} > {self.tolerance:g})", damage)
        decider.spent = damage
        return reuse(f"within the tolerance (damage {damage:.4f} of {self.tolerance:g})", damage)


def _distance(noise: float, other: float) -> float:
    return abs(math.log(max(noise, LEAST_NOISE) / max(other, LEAST_NOISE)))


def _weight(noise: float, next_noise: float) -> float:
    """How much more a deviation counts that is made while there is so much noise; 1 where half of it is gone."""
    clean = 1 - (noise + next_noise) / 2
    return max(1.0, float((EARLY / max(clean, 1e-3)) ** AMPLIFIED))
