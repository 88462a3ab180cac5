"""AdaCache: Adaptive Caching for Faster Video Generation with Diffusion Transformers.

Kahatapitiya, Liu, He, Liu, Jia, Zhang, Ryoo, Xie; arXiv 2411.02397, ICCV 2025. Training-free. Symbols of the paper:
p[t] what the attention of one block adds, c the rate of change, tau the rate at which steps are computed, m how much
moves between frames, mg its gradient.

1. At a computed step one attention in the middle of the stack is compared with the last computed step, tau steps ago as
   planned: c = mean|p[t] - p[t']| / mean|p[t']| / tau (Eq. 3).
2. A codebook makes of c the next tau: that of the first threshold above it, or the last one (Sec. 3.2). The next tau -
   1 steps are reused: every block adds what it added at t.
3. With `moreg` c is multiplied by m + |mg| before (Motion Regularization, Sec. 3.3): m = sum|x[f+1] - x[f]| over
   sum|x[f+1]| + |x[f]| between frames f, put on a scale by (m / .385) ** 8, and mg = 10 * (m - m') / tau. m is 1
   before a tenth and after nine tenths of the steps, as the older one too.
4. The first two steps and the last `tail` are computed.

What all blocks add one after the other is what the stack adds: so one hidden state is kept for each branch, where the
paper's code keeps two for each block; sites and taps are two things. Nothing is waited for in the forward.

Readings: the attention is the temporal one where there is one, and of the blocks that have it that before the middle
(13 of 28, as published). Where m' is not known it is 1. The scale's divisor, 1 in the code, is left out.

Deviations: p is taken before its gate. x, of which the motion is told, is what the denoiser returns, where frames lie
apart, and not p, whose tokens carry no count of frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.models import BlockStack, Tap
from bwcache.policies.base import Observation
from bwcache.policies.checks import expect
from bwcache.policies.codebook import Codebook, Computed, attention_and_motion
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import Published

PUBLISHED: Mapping[str, Published] = {
    "30 steps fast": Published({"thresholds": (0.08, 0.16, 0.24, 0.32, 0.4), "rates": (6, 5, 4, 3, 2, 1)}),
    "30 steps slow": Published({"thresholds": (0.08, 0.16), "rates": (3, 2, 1)}),
    "100 steps": Published({"thresholds": (0.03, 0.05, 0.07, 0.09, 0.11), "rates": (12, 10, 8, 6, 4, 3)}),
}
"""By the number of steps: the codebooks, the same for Open-Sora, Open-Sora-Plan and Latte."""

REGULARIZED = (0.1, 0.9)
"""Between which shares of the steps motion counts."""


@dataclass(frozen=True)
class AdaCache(Codebook):
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
        verified="a second implementation, bit for bit; another in numpy",
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
        self.expect_codebook()
        expect(isinstance(self.moreg, bool), "moreg", self.moreg, "True or False", "True")

    @property
    def needs_total(self) -> bool:
        """For the tail, and where motion counts."""
        return self.tail > 0 or self.moreg

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """One attention; with `moreg` what the denoiser returns, too.

        Raises:
            SettingError: the model's row names no attention inside of its blocks, or no frames.
        """
        return attention_and_motion(stack, self.moreg) if self.may_reuse else ()

    def planned(self, observation: Observation, change: float, motion: float | None, before: Computed) -> int:
        """Return the codebook's rate at c, with motion where it counts."""
        if self.moreg and motion is not None:
            step = observation.step
            now, older = _scaled(motion, step.index, step.total), _scaled(before.motion, before.step, step.total)
            change *= now + abs(10 * (now - older) / before.rate)
        return self.rate_of(change)


def _scaled(motion: float | None, index: int, total: int | None) -> float:
    """m on the scale on which 1 is much; 1 where it is not known or does not count."""
    if motion is None or not total or not REGULARIZED[0] <= (index + 1) / total <= REGULARIZED[1]:
        return 1.0
    return (motion / 0.385) ** 8
