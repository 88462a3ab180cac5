"""Spectrum: Adaptive Spectral Feature Forecasting for Diffusion Sampling Acceleration.

Han, Shi, Li, Ye, Guo, Ermon; arXiv 2603.01623, CVPR 2026. Training-free. Symbols of the paper: T[m] the Chebyshev
polynomials up to degree M, lambda the ridge, tau the step on an axis from -1 to 1, N the window, alpha how much it
grows, w the share.

1. The first steps are computed. Then one step in floor(N) is, and N grows by alpha with each of them.
2. What the last block returned at the computed steps is laid on a curve, each entry for itself: coefficients of
   T[0](tau) to T[M](tau) by least squares, with lambda times their squares added.
3. In a step between, w times the curve's value stands for the last block's output, and 1 - w times the value of the
   line through the last two computed ones.

The curve's value is a sum of the kept features, so that no coefficients are formed.

Readings: tau runs over the steps of the run (the released code says 50 whatever the run). The number of features that
are kept is `kept`, 100 there; a run of 50 steps computes 14 with the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.features import Predictor
from bwcache.features.chebyshev import Chebyshev
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import PAPER, Published

PUBLISHED: Mapping[str, Published] = {
    "Wan2.1-T2V-14B": Published({"window": 2.0, "growth": 0.75, "warmup": 5}, f"{PAPER}: 3.40x at 480p"),
    "Wan2.1-T2V-14B fast": Published({"window": 2.0, "growth": 3.0, "warmup": 5}, f"{PAPER}: 4.67x at 480p"),
}
"""By model."""

LONGEST = 10**6
"""No run has so many steps."""

HIGHEST_DEGREE = 20
"""Beyond that the polynomials tell no steps apart that a run has."""


@dataclass
class Window:
    """One lane of one denoiser: its last computed step, and how many were computed after the warm-up."""

    computed: int = -1
    windows: int = 0


Windows = dict[tuple[str, str], Window]


@dataclass(frozen=True)
class Spectrum(Policy[Windows]):
    """Computes in windows that grow, and lays what lies between on a smooth curve through all that was computed.

    Args:
        window: N at first, in steps, >= 1.
        growth: alpha, steps by which the window grows with each computed step, >= 0; .75 computes 14 of 50 steps, and 3
            computes 10. With 0 and a window below 2 nothing is ever reused.
        warmup: number of steps at the beginning that are always computed, >= 0.
        degree: M, 0..20.
        ridge: lambda, > 0.
        share: w of the curve, 0..1; the authors advise .5 to 1.
        kept: how many features are kept, each a hidden state per branch, >= 1.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="16 (`kept`)",
        reads="nothing",
        verified="two implementations in numpy",
        paper=Paper(
            title="Adaptive Spectral Feature Forecasting for Diffusion Sampling Acceleration",
            authors="Han, Shi, Li, Ye, Guo, Ermon",
            arxiv="2603.01623",
            venue="CVPR 2026",
        ),
    )

    window: float = 2.0  # N
    growth: float = 0.75  # alpha
    warmup: int = 5
    degree: int = 4  # M
    ridge: float = 0.1  # lambda
    share: float = 1.0  # w
    kept: int = 16

    def __post_init__(self) -> None:
        window = number(self.window) and 1 <= self.window <= LONGEST
        expect(window, "window", self.window, f"a number of steps, 1 to {LONGEST}", "2")
        growth = number(self.growth) and 0 <= self.growth <= LONGEST
        expect(growth, "growth", self.growth, f"a number of steps, 0 to {LONGEST}", "0.75")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "5")
        degree = whole(self.degree, 0) and self.degree <= HIGHEST_DEGREE
        expect(degree, "degree", self.degree, f"0 to {HIGHEST_DEGREE}", "4")
        expect(number(self.ridge) and self.ridge >= 1e-9, "ridge", self.ridge, "a number > 0", "0.1")
        expect(number(self.share) and 0 <= self.share <= 1, "share", self.share, "a share 0..1", "1")
        expect(whole(self.kept, 1), "kept", self.kept, "a whole number of features >= 1", "16")

    @property
    def feature_predictor(self) -> Predictor:
        """Curve and line."""
        return Chebyshev(self.degree, self.ridge, self.share, self.kept)

    @property
    def may_reuse(self) -> bool:
        """Not where the window never comes to two steps."""
        return self.window >= 2 or self.growth > 0

    def init(self) -> Windows:
        """No window has begun."""
        return {}

    def decide(self, observation: Observation, state: Windows) -> Decision:
        """The steps since the last computed one against the window."""
        index, own = observation.step.index, state[observation.denoiser, observation.step.lane]
        if index < self.warmup:
            return compute(f"warm-up (the first {self.warmup} steps)")
        size, age = math.floor(self.window + self.growth * own.windows), index - own.computed
        if age >= size:
            return compute(f"window over (after {age - 1} reused steps)")
        return reuse(f"on the curve (step {age} of a window of {size})")

    def refresh(self, observation: Observation, state: Windows) -> None:
        """A computed step begins a window, and after the warm-up a longer one."""
        own = state.setdefault((observation.denoiser, observation.step.lane), Window())
        if observation.step.index != own.computed:
            own.computed = observation.step.index
            own.windows += own.computed >= self.warmup
