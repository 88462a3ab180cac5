"""A policy between guards: first and last steps are computed whatever it says, and no window is too long.

Nearly every paper has guards of this kind around its method, and what they are worth is easily taken for the method's
own worth. Here they go around any policy, so that methods can be held against each other between the same ones.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from bwcache.core import Decision, Step, compute
from bwcache.features import Predictor
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, whole
from bwcache.policies.entry import Entry


def guard(step: Step, warmup: int, tail: int) -> Decision | None:
    """Return the decision to compute one of the first or last steps; None for those between.

    Args:
        step: where in the run.
        warmup, tail: how many steps at its beginning and at its end; with a tail an unknown end is taken to be near.
    """
    if step.index < warmup:
        return compute(f"warm-up (the first {warmup} steps)")
    if tail and (step.total is None or step.index >= step.total - tail):
        return compute(f"tail (the last {tail} steps)")
    return None


@dataclass
class State:
    """One run: the state of the policy inside, and the last computed step of each site in each lane."""

    inside: Any
    computed: dict[tuple[str, ...], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Guarded(Policy[State]):
    """Asks the policy inside in the steps between the first `warmup` and the last `tail` ones.

    Args:
        policy: which decides there; it is told of every computation. Guards of its own hold as well.
        warmup: number of steps at the beginning that are always computed, >= 0. The first step always is.
        tail: number of steps at the end that are always computed, >= 0.
        longest: at most so many steps are reused in a row, >= 1; None: as many as the policy likes. Each site counts
            for itself: a policy with several, such as MixCache, may reuse another one in the step between.

    Raises:
        SettingError: no policy, or a value outside its range.
    """

    entry = Entry(
        keeps="as the policy inside",
        reads="as the policy inside",
        verified="decisions worked out by hand, around each kind of policy",
        origin="this project",
    )

    policy: Policy[Any]
    warmup: int = 1
    tail: int = 1
    longest: int | None = None

    def __post_init__(self) -> None:
        expect(isinstance(self.policy, Policy), "policy", self.policy, "a policy", "bwcache.BWCache()")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "1")
        expect(whole(self.tail, 0), "tail", self.tail, "a whole number of steps >= 0", "1")
        fine = self.longest is None or whole(self.longest, 1)
        expect(fine, "longest", self.longest, "a whole number of steps >= 1, or None", "4")

    @property
    def denoisers(self) -> tuple[str, ...]:
        """Those of the policy inside."""
        return self.policy.denoisers

    def of_denoiser(self, name: str) -> Policy[Any]:
        """The same guards around what acts on this denoiser."""
        return replace(self, policy=self.policy.of_denoiser(name))

    def at_work(self, stack: BlockStack) -> AbstractContextManager[None]:
        """As the policy inside."""
        return self.policy.at_work(stack)

    def citation(self) -> str:
        """As the policy inside."""
        return self.policy.citation()

    @property
    def tap_share(self) -> float | None:
        """As the policy inside."""
        return self.policy.tap_share

    @property
    def probes(self) -> bool:
        """As the policy inside."""
        return self.policy.probes

    @property
    def feature_predictor(self) -> Predictor | None:
        """As the policy inside."""
        return self.policy.feature_predictor

    @property
    def may_reuse(self) -> bool:
        """As the policy inside."""
        return self.policy.may_reuse

    @property
    def needs_total(self) -> bool:
        """For the tail."""
        return self.tail > 0 or self.policy.needs_total

    @property
    def looks_ahead(self) -> bool:
        """As the policy inside."""
        return self.policy.looks_ahead

    @property
    def needs_errors(self) -> bool:
        """As the policy inside."""
        return self.policy.needs_errors

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """As the policy inside."""
        return self.policy.sites(stack)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """As the policy inside."""
        return self.policy.taps(stack)

    def init(self) -> State:
        """A fresh state of the policy inside."""
        return State(self.policy.init())

    def decide(self, observation: Observation, state: State) -> Decision:
        """The guards, else the policy inside."""
        guarded = guard(observation.step, self.warmup, self.tail)
        if guarded is not None:
            return guarded
        if self.longest is not None:
            since = observation.step.index - state.computed.get(_key(observation), observation.step.index)
            if since > self.longest:
                return compute(f"longest window (after {self.longest} reused steps)")
        return self.policy.decide(observation, state.inside)

    def refresh(self, observation: Observation, state: State) -> None:
        """Takes note of a computation, and tells the policy inside."""
        state.computed[_key(observation)] = observation.step.index
        self.policy.refresh(observation, state.inside)

    def check(self, total: int) -> None:
        """As the policy inside."""
        self.policy.check(total)


def _key(observation: Observation) -> tuple[str, ...]:
    return (observation.denoiser, observation.step.lane, observation.site)
