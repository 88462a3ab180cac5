"""SeaCache: Spectral-Evolution-Aware Cache for Accelerating Diffusion Models.

Chung, Hyun, Lee, Han, Cha, Wee, Hong, Heo; arXiv 2602.18993, CVPR 2026. Training-free. Symbols of the paper: x[t] the
latents, s the share of noise in them, delta the threshold, beta the exponent of the power of clean signals over
frequency.

1. Of noisy latents only a part is signal, low frequencies before high ones. The best linear filter that lets it pass
   has along each axis the gain (1 - s) * P / ((1 - s)^2 * P + s^2), with P(f) = 1 / |f|^beta (Eq. 5, 6). The gains of
   frames, height and width are multiplied, and scaled to a mean of 1 (Eq. 7).
2. What the filter lets pass of x[t] is compared with the same of the step before: mean|new - old| / mean|old|.
3. These changes are added up. While the sum is below delta, and at most `longest` steps in a row were skipped, all
   blocks are skipped: their residual is continued linearly in the step index from the last two computed ones with
   `order` 1, and replayed with 0. Else they are computed, and the sum starts from 0.
4. The first and the last steps are always computed, as many as `warmup` and `tail` say; there the sum is 0.

The latents of this very forward are looked at: one wait for the device in each. They must lie as frames, height
and width, or as height and width, as the model's row says, and not as tokens in a row. A batch decides as one.

Deviation: the sums of a batch are pooled before they are divided; diffusers takes the mean of its videos' changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.features import Differences, Predictor, Signal
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.guarded import guard
from bwcache.policies.published import Published
from bwcache.policies.sites import added_by_all

PUBLISHED: Mapping[str, Published] = {
    "diffusers": Published(
        {"threshold": 0.25, "order": 1, "longest": 2, "warmup": 1, "tail": 1}, "diffusers' default, whatever the model"
    ),
}
"""The paper's thresholds for each model are not known here."""


@dataclass
class Spent:
    """Since a lane was last computed: the sum of the changes, and how many steps were skipped."""

    change: float = 0.0
    steps: int = 0


Lanes = dict[tuple[str, str], Spent]


@dataclass(frozen=True)
class SeaCache(Policy[Lanes]):
    """Skips all blocks while what a filter takes for signal in the latents hardly changes.

    Args:
        threshold: delta, dimensionless, >= 0; .25 in diffusers. 0 never reuses.
        order: 1 continues the residual linearly in the step index, 0 replays it.
        longest: at most so many steps are skipped in a row, >= 1; None: any number.
        warmup: number of steps at the beginning that are always computed, >= 0. The first step always is.
        tail: number of steps at the end that are always computed, >= 0.
        exponent: beta, > 0; 3 for videos, 2 for pictures.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2, or 1 with `order=0`",
        reads="the latents through a filter, in each forward",
        verified="diffusers' hook: its decisions, and its bits where residuals are replayed",
        paper=Paper(
            title="SeaCache: Spectral-Evolution-Aware Cache for Accelerating Diffusion Models",
            authors="Chung, Hyun, Lee, Han, Cha, Wee, Hong, Heo",
            arxiv="2602.18993",
            venue="CVPR 2026",
        ),
    )

    threshold: float = 0.25  # delta
    order: int = 1
    longest: int | None = 2
    warmup: int = 1
    tail: int = 1
    exponent: float = 3.0  # beta

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.25")
        expect(whole(self.order, 0) and self.order <= 1, "order", self.order, "0 or 1", "1")
        fine = self.longest is None or whole(self.longest, 1)
        expect(fine, "longest", self.longest, "a whole number of steps >= 1, or None", "2")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "1")
        expect(whole(self.tail, 0), "tail", self.tail, "a whole number of steps >= 0", "1")
        expect(number(self.exponent) and 0 < self.exponent <= 100, "exponent", self.exponent, "a number > 0", "3")

    probes = True  # the latents of this very step are what it looks at

    @property
    def feature_predictor(self) -> Predictor:
        """The line through the last two residuals, or the last one."""
        return Differences(self.order)

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    needs_total = True  # for the tail, and for the noise where nobody says it

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, by what they add."""
        return (added_by_all(stack),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """The latents, filtered, against the step before.

        Raises:
            SettingError: the denoiser's latents are a row of tokens, or its row does not say how they lie.
        """
        if not self.may_reuse:
            return ()
        return (stack.tap(stack.root, end="in", view=Signal(self.exponent, stack.axes("fhw")), against="step"),)

    def init(self) -> Lanes:
        """Nothing is added up yet."""
        return {}

    def decide(self, observation: Observation, state: Lanes) -> Decision:
        """The sum against delta between the first and the last steps."""
        step = observation.step
        spent, guarded = state.pop(_lane(observation), Spent()), guard(step, self.warmup, self.tail)
        if guarded is not None:
            return guarded
        if step.noise is None:
            return compute("noise level unknown: pass steps= where nobody says it")
        if self.longest is not None and spent.steps >= self.longest:
            return compute(f"longest window (after {self.longest} reused steps)")
        change = observation.now[0]
        if change is None:
            return compute("nothing to compare with yet")
        spent.change += change
        spent.steps += 1
        if not math.isfinite(spent.change):
            return compute("indicator is not finite", spent.change)
        if spent.change < self.threshold:
            state[_lane(observation)] = spent
            return reuse(f"within the budget ({spent.change:.4f} < {self.threshold:g})", spent.change)
        return compute(f"budget spent ({spent.change:.4f} >= {self.threshold:g})", spent.change)

    def refresh(self, observation: Observation, state: Lanes) -> None:
        """What is computed, for whatever reason, begins the sum anew."""
        state.pop(_lane(observation), None)


def _lane(observation: Observation) -> tuple[str, str]:
    return (observation.denoiser, observation.step.lane)
