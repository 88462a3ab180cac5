"""Fixed interval: compute every n-th step and reuse the ones between, whatever the features do.

No paper: the plain baseline that every method with an indicator has to beat. Nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bwcache.core import Decision, compute, reuse
from bwcache.features import Last, Predictor
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, expect_predictor, whole
from bwcache.policies.entry import Entry
from bwcache.policies.guarded import guard


@dataclass
class State:
    """One run: the last computed step of each branch."""

    computed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FixedInterval(Policy[State]):
    """Computes every `interval`-th step, the first `warmup` steps and the last `tail` ones.

    Args:
        interval: distance in steps from one computed step to the next, >= 1; 1 never reuses.
        warmup: number of steps at the beginning that are always computed, >= 0. The first step always is.
        tail: number of steps at the end that are always computed, >= 0.
        predictor: how a skipped feature is made: `Last()` replays, `Linear()` extrapolates in sigma.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="nothing",
        verified="decisions worked out by hand",
        origin="the plain baseline",
    )

    interval: int = 2
    warmup: int = 1
    tail: int = 1
    predictor: Predictor = field(default_factory=Last)

    def __post_init__(self) -> None:
        for name, least in (("interval", 1), ("warmup", 0), ("tail", 0)):
            value = getattr(self, name)
            expect(whole(value, least), name, value, f"a whole number >= {least}", f"{least + 1}")
        expect_predictor(self.predictor)

    @property
    def feature_predictor(self) -> Predictor:
        """`predictor`."""
        return self.predictor

    @property
    def may_reuse(self) -> bool:
        """Not with an interval of 1."""
        return self.interval > 1

    @property
    def needs_total(self) -> bool:
        """For the tail."""
        return True

    def init(self) -> State:
        """Nothing computed yet."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """Counts the steps since the last computed one."""
        step = observation.step
        guarded = guard(step, self.warmup, self.tail)
        if guarded is not None:
            return guarded
        age = step.index - state.computed[step.branch]
        if age >= self.interval:
            return compute(f"interval over (after {age - 1} reused steps)")
        return reuse(f"within the interval (step {age} after a computed one)")

    def refresh(self, observation: Observation, state: State) -> None:
        """Remembers the step."""
        state.computed[observation.step.branch] = observation.step.index
