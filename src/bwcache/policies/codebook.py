"""What AdaCache and methods after it share: a codebook says of how fast one attention changes when to compute next."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

from bwcache.core import Decision, compute, reuse
from bwcache.features import All, Motion
from bwcache.models import BlockStack, Place, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.guarded import guard
from bwcache.policies.sites import added_by_all

ATTENTION = ("temporal", "self", "joint")
"""Kinds of parts: of these the first that a model has."""


@dataclass
class Computed:
    """Of one lane: the last computed step, the rate planned there, and how much moved there."""

    step: int
    rate: int = 1
    motion: float | None = None


@dataclass
class State:
    """One run."""

    lanes: dict[tuple[str, str], Computed] = field(default_factory=dict)


class Codebook(Policy[State]):
    """Base: replays all blocks for as many steps as the rate says that was planned where they were last computed.

    Attributes:
        thresholds: of the codebook, rising, dimensionless.
        rates: below each threshold, and above all of them, >= 1; all 1 never reuses.
        tail: number of steps at the end that are always computed, >= 0.
    """

    thresholds: tuple[float, ...]
    rates: tuple[int, ...]
    tail: int

    @abstractmethod
    def planned(self, observation: Observation, change: float, motion: float | None, before: Computed) -> int:
        """Return the next rate.

        Args:
            observation: of the step that was just computed.
            change: of the attention, for each step of the rate planned before.
            motion: between the frames; None where it is not known.
            before: where it was computed before.
        """

    def expect_codebook(self) -> None:
        """Raises `SettingError` where thresholds and rates are no codebook, or the tail is none."""
        some = self.thresholds if isinstance(self.thresholds, (tuple, list)) else ()
        fine = len(some) > 0 and all(number(each) and each >= 0 for each in some) and list(some) == sorted(some)
        expect(fine, "thresholds", self.thresholds, "rising numbers >= 0", "(0.08, 0.16)")
        every = self.rates if isinstance(self.rates, (tuple, list)) else ()
        fine = len(every) == len(some) + 1 and all(whole(each, 1) for each in every)
        expect(fine, "rates", self.rates, "whole numbers >= 1, one more than thresholds", "(3, 2, 1)")
        expect(whole(self.tail, 0), "tail", self.tail, "a whole number of steps >= 0", "2")

    def rate_of(self, change: float) -> int:
        """Return the rate of the first threshold above the change, or else the last one."""
        found = (rate for threshold, rate in zip(self.thresholds, self.rates, strict=False) if change < threshold)
        return next(found, self.rates[-1])

    @property
    def may_reuse(self) -> bool:
        """Not where every rate is 1."""
        return max(self.rates) > 1

    @property
    def needs_total(self) -> bool:
        """For the tail."""
        return self.tail > 0

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, by what they add."""
        return (added_by_all(stack),)

    def init(self) -> State:
        """Nothing is planned yet."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """The steps between two that are planned."""
        step = observation.step
        computed, guarded = state.lanes.get((observation.denoiser, step.lane)), guard(step, 1, self.tail)
        if guarded is not None:
            return guarded
        if computed is None:
            return compute("nothing to compare with yet")
        age = step.index - computed.step
        if age >= computed.rate:
            return compute(f"rate over (every {computed.rate} steps)")
        return reuse(f"within the rate (step {age} of {computed.rate} after a computed one)")

    def refresh(self, observation: Observation, state: State) -> None:
        """Plans when to compute next."""
        lane, step, last = (observation.denoiser, observation.step.lane), observation.step, observation.last
        before = state.lanes.get(lane)
        now = state.lanes[lane] = Computed(step.index)
        change = last[0] if last is not None else None
        now.motion = last[1] if last is not None and len(last.numerators) > 1 else None
        if before is not None and change is not None and math.isfinite(change):
            now.rate = self.planned(observation, change / before.rate, now.motion, before)


def attention_and_motion(stack: BlockStack, motion: bool) -> tuple[Tap, ...]:
    """Return a tap of the attention before the middle of the stack; and one of the motion between frames.

    Raises:
        SettingError: the model's row names no attention inside of its blocks, or no frames.
    """
    kind = next((kind for kind in ATTENTION if kind in stack.kinds), ATTENTION[1])
    some = stack.parts(kind)
    place: Place = some[max(len(some) // 2 - 1, 0)]
    seen = stack.tap(place, view=All())
    if not motion:
        return (seen,)
    (axis,) = stack.axes("f")
    return (seen, stack.tap(stack.root, view=All(), indicator=Motion(axis)))
