"""DiCache: Let Diffusion Model Determine Its Own Cache.

Bu, Ling, Zhou, Wang, Zang, Wu, Lin, Wang; arXiv 2508.17356, ICLR 2026. Training-free. Symbols of the paper: m blocks of
probe, p what these add to their input, r what all blocks add, delta the threshold, gamma how far along, a and b the
last two computed steps, a the newer one.

1. The first m blocks, the probe, run in every step. How much what they return changes from step to step,
   mean|new - old| / mean|old|, tells how much the output of all blocks will (Sec. 3.2).
2. The changes are added up. Below delta the other blocks are skipped; else they go on from the probe, and the sum
   starts from 0.
3. What was skipped is r = r[b] + gamma * (r[a] - r[b]), added to the input of the first block, with the probe's own
   way: gamma = mean|p - p[b]| / mean|p[a] - p[b]|, cut to 1 .. `most` (Eq. 9, 10). With one computed step it is r[a].
4. The first R * T steps and the one after them are computed, and the last one.

Each branch of its own forward decides for itself. One wait for the device in each forward.

Reading: where the probe did not move between a and b, r[a] is taken.

Deviation: none that is known. The published script for Wan 2.1 cuts gamma at 2; those for HunyuanVideo and FLUX at 1.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.errors import AttachError, complaint
from bwcache.features import All, Extended, Predictor
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.guarded import guard
from bwcache.policies.published import Published

PUBLISHED: Mapping[str, Published] = {
    "Wan2.1": Published({"threshold": 0.08, "most": 2.0}),
    "HunyuanVideo": Published({"threshold": 0.1, "most": 1.5}),
    "FLUX.1-dev": Published({"threshold": 0.4, "most": 1.5}),
}
"""By model: the settings of the authors' scripts."""

PROBE, SINCE_LAST, SINCE_BEFORE = range(3)
"""What is measured: the probe's output against the step before, its residual against the last computed two."""

Sums = dict[tuple[str, str], float]


@dataclass(frozen=True)
class DiCache(Policy[Sums]):
    """Runs the first blocks in every step, and skips the others while what these return hardly changes.

    Args:
        threshold: delta, dimensionless, >= 0; .1 for HunyuanVideo, .4 for FLUX, .08 in the script for Wan 2.1 and .2 in
            its table. 0 never reuses.
        probe: m, how many blocks run in every step, >= 1.
        most: where gamma is cut, >= 1; 1 replays the last residual.
        retention: R, share of the steps that are computed at the beginning, 0..1.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2",
        reads="what the first blocks return and add, in each forward",
        verified="a second implementation: its decisions, and its latents up to rounding; another in numpy",
        paper=Paper(
            title="DiCache: Let Diffusion Model Determine Its Own Cache",
            authors="Bu, Ling, Zhou, Wang, Zang, Wu, Lin, Wang",
            arxiv="2508.17356",
            venue="ICLR 2026",
        ),
    )

    threshold: float = 0.2  # delta
    probe: int = 1  # m
    most: float = 1.5
    retention: float = 0.2  # R

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.2")
        expect(whole(self.probe, 1), "probe", self.probe, "a whole number of blocks >= 1", "1")
        expect(number(self.most) and 1 <= self.most <= 100, "most", self.most, "a number >= 1", "1.5")
        expect(number(self.retention) and 0 <= self.retention <= 1, "retention", self.retention, "a share 0..1", "0.2")

    probes = True  # in the paper's sense too

    @property
    def feature_predictor(self) -> Predictor:
        """Of two residuals; each decision says how far along."""
        return Extended()

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    needs_total = True  # for the retained steps and the last one

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks after the probe; what is added counts from the first block's input on.

        Raises:
            AttachError: the probe has all blocks.
        """
        if len(stack.blocks) <= self.probe:
            found = f"{len(stack.blocks)} blocks in {stack.spec.model}, and a probe of {self.probe}"
            raise AttachError(complaint(found, "more blocks than the probe has", "lower probe"))
        first, last = stack.blocks[self.probe], stack.blocks[-1]
        return (stack.site(first, last, keeps="residual", since=stack.blocks[0]),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """The probe's output, and what it adds."""
        if not self.may_reuse:
            return ()
        last = stack.blocks[self.probe - 1]
        added = stack.tap(last, end="residual", since=stack.blocks[0], view=All(), lags=(1, 2))
        return (stack.tap(last, view=All(), against="step"), added)

    def init(self) -> Sums:
        """Nothing is added up yet."""
        return {}

    def decide(self, observation: Observation, state: Sums) -> Decision:
        """The sum against delta; how far along in each skipped step."""
        step, lane = observation.step, (observation.denoiser, observation.step.lane)
        spent, total = state.pop(lane, 0.0), step.total or 0
        guarded = guard(step, min(int(self.retention * total) + 1, total), 1)
        if guarded is not None:
            return guarded
        change = observation.now[PROBE]
        if change is None:
            return compute("nothing to compare with yet")
        spent += change
        if not math.isfinite(spent):
            return compute("indicator is not finite", spent)
        if spent < self.threshold:
            state[lane] = spent
            how = Extended(self._length(observation))
            return reuse(f"within the budget ({spent:.4f} < {self.threshold:g})", spent, how)
        return compute(f"budget spent ({spent:.4f} >= {self.threshold:g})", spent)

    def refresh(self, observation: Observation, state: Sums) -> None:
        """What is computed, for whatever reason, begins the sum anew."""
        state.pop((observation.denoiser, observation.step.lane), None)

    def _length(self, observation: Observation) -> float:
        """gamma; the means come down to sums over the same entries."""
        now, last = observation.now, observation.last
        between = last.numerators[SINCE_LAST] if last is not None else 0.0  # |p[a] - p[b]|
        length = now.numerators[SINCE_BEFORE] / between if between else 1.0
        return min(max(length, 1.0), self.most) if math.isfinite(length) else 1.0
