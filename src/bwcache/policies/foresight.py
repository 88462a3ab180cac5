"""Foresight: Adaptive Layer Reuse for Accelerated and High-Quality Text-to-Video Generation.

Adnan, Kurella, Arunkumar, Nair; arXiv 2506.00329, NeurIPS 2025. Training-free. Symbols of the paper: x[t, l] the output
of block l at step t, W steps of warm-up, lambda[l] what a block may change, gamma its scale, N reused steps, R = N + 1.

1. Warm-up: every block is computed. What a block changes there, the later the more, is its measure:
   lambda[l] = sum of 10 ** -age * MSE(x[t, l], x[t+1, l]) over the last three steps, the last of age 0.
2. Then in every R-th step all blocks are computed: delta[l] = MSE of the new output against the kept one.
3. In the N steps between, block l is reused where delta[l] <= gamma * lambda[l], and computed elsewhere. What is
   computed is kept, and its change is the next delta[l].

Each block decides for itself, in each branch and for each sample, so that a step may reuse any of them.

Readings: the first step after the warm-up is one in which all are computed. W is rounded half up, and at least 2: one
change must have been seen. Where another denoiser takes over (Wan 2.2), the warm-up starts anew for its blocks.

Deviation: the released code reuses a prefix of the blocks, and lays the change of temporal blocks beside what spatial
ones kept; here it is as in the text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.features import All, squared
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper

Layers = dict[tuple[str, ...], "Layer"]

AGES = 3
"""Of how many steps at the end of the warm-up the changes count."""


@dataclass
class Layer:
    """What is known of one block in one lane: since when it runs, lambda, and delta."""

    since: int
    may: float = 0.0
    change: float | None = None


@dataclass(frozen=True)
class Foresight(Policy[Layers]):
    """Reuses each block for itself where its output changed less than it did during the warm-up.

    Args:
        scale: gamma, dimensionless, >= 0; the paper's are .5, and up to 2 for more speed. 0 never reuses.
        reuses: N, how many steps lie between two in which all blocks are computed, >= 1.
        warmup: W as a share of the steps, 0..1.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1 for each block",
        reads="the output of every block, once per computed step",
        verified="a second implementation, bit for bit; another in numpy",
        paper=Paper(
            title="Foresight: Adaptive Layer Reuse for Accelerated and High-Quality Text-to-Video Generation",
            authors="Adnan, Kurella, Arunkumar, Nair",
            arxiv="2506.00329",
            venue="NeurIPS 2025",
        ),
    )

    scale: float = 0.5  # gamma
    reuses: int = 1  # N
    warmup: float = 0.15  # W

    def __post_init__(self) -> None:
        expect(number(self.scale) and self.scale >= 0, "scale", self.scale, "a number >= 0", "0.5")
        expect(whole(self.reuses, 1), "reuses", self.reuses, "a whole number of steps >= 1", "1")
        expect(number(self.warmup) and 0 <= self.warmup <= 1, "warmup", self.warmup, "a share 0..1", "0.15")

    @property
    def may_reuse(self) -> bool:
        """Not with a scale of 0."""
        return self.scale > 0

    needs_total = True  # for the warm-up

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Each block."""
        return tuple(stack.site(block) for block in stack.blocks)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """The output of each block, all of it."""
        return stack.taps(view=All(), indicator=squared) if self.may_reuse else ()

    def init(self) -> Layers:
        """No block has run yet."""
        return {}

    def decide(self, observation: Observation, state: Layers) -> Decision:
        """Warm-up, a step for all, or delta against gamma * lambda."""
        layer, warmup = state.get(_key(observation)), self._warmup(observation)
        if layer is None:
            return compute("nothing to compare with yet")
        age = observation.step.index - layer.since - warmup
        if age < 0:
            return compute(f"warm-up (the first {warmup} steps)")
        if age % (self.reuses + 1) == 0:
            return compute(f"all blocks are computed (every {self.reuses + 1} steps)")
        if layer.change is None:
            return compute("nothing to compare with yet")
        most = self.scale * layer.may
        if not (math.isfinite(layer.change) and math.isfinite(most)):
            return compute("indicator is not finite", layer.change)
        if layer.change > most:
            return compute(f"block changed ({layer.change:.3g} > {most:.3g})", layer.change)
        return reuse(f"block hardly changed ({layer.change:.3g} <= {most:.3g})", layer.change)

    def refresh(self, observation: Observation, state: Layers) -> None:
        """Takes note of what a computed block changed: lambda during the warm-up, delta always."""
        index = observation.step.index
        layer = state.setdefault(_key(observation), Layer(index))
        layer.change = observation.last.at(observation.site) if observation.last else None
        age = layer.since + self._warmup(observation) - 1 - index
        if layer.change is not None and 0 <= age < AGES:
            layer.may += 10.0**-age * layer.change

    def _warmup(self, observation: Observation) -> int:
        """W in steps."""
        return max(2, math.floor(self.warmup * (observation.step.total or 0) + 0.5))


def _key(observation: Observation) -> tuple[str, ...]:
    return (observation.denoiser, observation.step.lane, observation.site)
