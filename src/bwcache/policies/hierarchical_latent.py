"""HLC: the hierarchical latent cache of QuantCache.

Wu, Li, Hui, Zhang, Kong, Yang: QuantCache: Adaptive Importance-Guided Quantization with Hierarchical Latent and Layer
Caching for Video Generation; arXiv 2503.06545, ICCV 2025. Training-free. The paper's other parts, which are about
weights and about leaving layers out, are not here. Symbols of the paper: p what a layer returns, k the steps between
two computed ones, D how much changed, m how much moves between frames, delta the thresholds, tau the rates.

1. At a computed step D = |p[t] - p[t+k]|_1 / k * |grad m|: change in time, times motion between the frames.
2. tau is the largest rate below delta 1, the middle one below delta 2, and else the smallest: the next tau - 1 steps
   are reused.
3. The first two steps and the last `tail` are computed.

The paper puts its thresholds into a supplement that nobody here has seen: they have no defaults, and no result of the
paper can be made with what is known. It follows AdaCache (`policies/adacache.py`), and so do the readings: p is an
attention in the middle of the stack and its change relative, k is the planned rate, and the gradient of motion between
frames is the relative difference from frame to frame of what the denoiser returns.
"""

from __future__ import annotations

from dataclasses import dataclass

from bwcache.models import BlockStack, Tap
from bwcache.policies.base import Observation
from bwcache.policies.checks import expect
from bwcache.policies.codebook import Codebook, Computed, attention_and_motion
from bwcache.policies.entry import Entry, Paper


@dataclass(frozen=True)
class HierarchicalLatentCache(Codebook):
    """Replays all blocks for a short, middle or long time, by how much changed and moves.

    Args:
        thresholds: delta 1 and 2, rising, dimensionless.
        rates: tau: the largest, the middle and the smallest, >= 1; all 1 never reuses.
        tail: number of steps at the end that are always computed, >= 0.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="one attention in the middle, and the motion between frames, once per computed step",
        verified="a second implementation, bit for bit; another in numpy",
        paper=Paper(
            title="QuantCache: Adaptive Importance-Guided Quantization with Hierarchical Latent and Layer "
            "Caching for Video Generation",
            authors="Wu, Li, Hui, Zhang, Kong, Yang",
            arxiv="2503.06545",
            venue="ICCV 2025",
        ),
    )

    thresholds: tuple[float, ...]  # delta
    rates: tuple[int, ...] = (6, 3, 1)  # tau
    tail: int = 2

    def __post_init__(self) -> None:
        self.expect_codebook()
        expect(len(self.rates) == 3, "rates", self.rates, "three of them", "(6, 3, 1)")

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """One attention, and the motion in what the denoiser returns.

        Raises:
            SettingError: the model's row names no attention inside of its blocks, or no frames.
        """
        return attention_and_motion(stack, motion=True) if self.may_reuse else ()

    def planned(self, observation: Observation, change: float, motion: float | None, before: Computed) -> int:
        """Return the rate at D; the smallest where no motion is known."""
        return self.rates[-1] if motion is None else self.rate_of(change * motion)
