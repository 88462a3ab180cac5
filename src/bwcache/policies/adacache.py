"""AdaCache: Adaptive Caching for Faster Video Generation with Diffusion Transformers.

Kahatapitiya, Liu, He, Liu, Jia, Zhang, Ryoo, Xie; arXiv 2411.02397, ICCV 2025. Training-free. Symbols of the paper:
p[t] what the attention of one block adds, c the rate of change, tau the rate at which steps are computed, m how much
moves between frames, mg its gradient.

1. At a computed step one attention in the middle of the stack is compared with the last computed step, tau steps ago as
   planned: c = mean|p[t] - p[t']| / mean|p[t']| / tau (Eq. 3).
2. A codebook makes of c the next tau: that of the first threshold above it, or the last one (Sec. 3.2). The next tau -
   1 steps are reused: every block adds what it added at t.
3. With `moreg` c is multiplied by m + |mg| before (Motion Regularization, Sec. 3.3): m = sum|x[f+1] - x[f]| over
   sum|x[f+1]| + |x[f]| between frames f, put on a scale by (m / .385) ** 8, and mg = 10 * (m - m') / tau. It holds
   between a tenth and nine tenths of the steps.
4. The first two steps and the last `tail` are computed.

What all blocks add one after the other is what the stack adds: so one hidden state is kept for each branch, where the
paper's code keeps two for each block; sites and taps are two things. Nothing is waited for in the forward.

Readings: the attention is the temporal one where there is one, and of the blocks that have it that before the middle
(13 of 28, as published). Where m' is not known, mg is 0. The scale's divisor, 1 in the code, is left out.

Deviations: p is taken before its gate. x, of which the motion is told, is what the denoiser returns, where frames lie
apart, and not p, whose tokens carry no count of frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from bwcache.core import Decision, compute, reuse
from bwcache.features import All, Motion
from bwcache.models import BlockStack, Place, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.guarded import guard
from bwcache.policies.sites import added_by_all

ATTENTION = ("temporal", "self", "joint")
"""Kinds of parts: of these the first that a model has."""

REGULARIZED = (0.1, 0.9)
"""Between which shares of the steps motion counts."""


@dataclass
class Planned:
    """Of one lane: the last computed step, the rate planned there, and how much moved there."""

    computed: int
    rate: int = 1
    motion: float | None = None


Rate = Callable[[Observation, float, "float | None", Planned], int]
"""(what was observed, change for each step of the planned rate, motion, what was planned before) -> the next rate."""


@dataclass
class State:
    """One run."""

    lanes: dict[tuple[str, str], Planned] = field(default_factory=dict)


@dataclass(frozen=True)
class AdaCache(Policy[State]):
    """Replays all blocks for as many steps as a codebook says of how fast one attention changes.

    Args:
        thresholds: of the codebook, rising, dimensionless.
        rates: tau below each threshold, and above all of them, >= 1; all 1 never reuses. The defaults are "fast" for 30
            steps; "slow" is (.08, .16) with (3, 2, 1), and (.03, .05, .07, .09, .11) with (12, 10, 8, 6, 4, 3) for 100.
        moreg: whether motion between the frames shortens the rates.
        tail: number of steps at the end that are always computed, >= 0.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="one attention in the middle, once per computed step",
        verified="a second implementation, bit for bit",
        paper=Paper(
            title="Adaptive Caching for Faster Video Generation with Diffusion Transformers",
            authors="Kahatapitiya, Liu, He, Liu, Jia, Zhang, Ryoo, Xie",
            arxiv="2411.02397",
            venue="ICCV 2025",
        ),
    )

    thresholds: tuple[float, ...] = (0.08, 0.16, 0.24, 0.32, 0.4)
    rates: tuple[int, ...] = (6, 5, 4, 3, 2, 1)
    moreg: bool = False
    tail: int = 2

    def __post_init__(self) -> None:
        expect_codebook(self.thresholds, self.rates)
        expect(isinstance(self.moreg, bool), "moreg", self.moreg, "True or False", "True")
        expect(whole(self.tail, 0), "tail", self.tail, "a whole number of steps >= 0", "2")

    @property
    def may_reuse(self) -> bool:
        """Not where every rate is 1."""
        return max(self.rates) > 1

    @property
    def needs_total(self) -> bool:
        """For the tail, and where motion counts."""
        return self.tail > 0 or self.moreg

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, by what they add."""
        return (added_by_all(stack),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """One attention; with `moreg` what the denoiser returns, too.

        Raises:
            SettingError: the model's row names no attention inside of its blocks, or no frames.
        """
        return attention_and_motion(stack, self.moreg) if self.may_reuse else ()

    def init(self) -> State:
        """Nothing is planned yet."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """The steps between two that are planned."""
        return within(observation, state, self.tail)

    def refresh(self, observation: Observation, state: State) -> None:
        """Plans when to compute next."""
        plan(observation, state, self._rate)

    def _rate(self, observation: Observation, change: float, motion: float | None, before: Planned) -> int:
        """The codebook at c, with motion where it counts."""
        if self.moreg and motion is not None and _is_regularized(observation):
            gradient = 0.0 if before.motion is None else 10 * (_scaled(motion) - _scaled(before.motion)) / before.rate
            change *= _scaled(motion) + abs(gradient)
        return rate_of(change, self.thresholds, self.rates)


def expect_codebook(thresholds: object, rates: object) -> None:
    """Raises `SettingError` where the two are no codebook."""
    some = thresholds if isinstance(thresholds, (tuple, list)) else ()
    fine = len(some) > 0 and all(number(each) and each >= 0 for each in some) and list(some) == sorted(some)
    expect(fine, "thresholds", thresholds, "rising numbers >= 0", "(0.08, 0.16)")
    every = rates if isinstance(rates, (tuple, list)) else ()
    fine = len(every) == len(some) + 1 and all(whole(each, 1) for each in every)
    expect(fine, "rates", rates, "whole numbers >= 1, one more than thresholds", "(3, 2, 1)")


def rate_of(change: float, thresholds: tuple[float, ...], rates: tuple[int, ...]) -> int:
    """Return the rate of the first threshold above the change, or else the last one."""
    return next((rate for threshold, rate in zip(thresholds, rates, strict=False) if change < threshold), rates[-1])


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


def within(observation: Observation, state: State, tail: int) -> Decision:
    """Return whether the next planned step is still to come."""
    step = observation.step
    planned, guarded = state.lanes.get((observation.denoiser, step.lane)), guard(step, 1, tail)
    if guarded is not None:
        return guarded
    if planned is None:
        return compute("nothing to compare with yet")
    age = step.index - planned.computed
    if age >= planned.rate:
        return compute(f"rate over (every {planned.rate} steps)")
    return reuse(f"within the rate (step {age} of {planned.rate} after a computed one)")


def plan(observation: Observation, state: State, rate: Rate) -> None:
    """Take note of a computed step: when the next one is due."""
    lane, step, last = (observation.denoiser, observation.step.lane), observation.step, observation.last
    before = state.lanes.get(lane)
    now = state.lanes[lane] = Planned(step.index)
    change = last[0] if last is not None else None
    now.motion = last[1] if last is not None and len(last.numerators) > 1 else None
    if before is not None and change is not None and math.isfinite(change):
        now.rate = rate(observation, change / before.rate, now.motion, before)


def _is_regularized(observation: Observation) -> bool:
    total = observation.step.total or 0
    share = (observation.step.index + 1) / total if total else 0.0
    return REGULARIZED[0] <= share <= REGULARIZED[1]


def _scaled(motion: float) -> float:
    """m on the scale on which 1 is much."""
    return (motion / 0.385) ** 8
