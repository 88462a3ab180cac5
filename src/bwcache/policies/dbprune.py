"""DBPrune: dynamic block pruning, of cache-dit; no paper.

cache-dit, since 2025. Training-free. Symbols of its settings: Fn and Bn blocks at both ends that
always run, delta the threshold.

1. Each block between them is asked for itself, as the forward comes to it: x is what enters it, x' what entered it when
   it last ran, d = mean|x - x'| / mean|x'|.
2. d < delta: what the block added to x' is added to x, for each stream. Otherwise it runs, and x and what it adds are
   kept.
3. With a dynamic threshold, delta is `relax` times the mean of the first five d > 0 of this step, as far as there are
   any, where that lies between delta and 2 delta; elsewhere it is delta.
4. The first steps are computed.

Each block waits for the device by itself: as many waits in a forward as there are blocks to ask.

Deviation: blocks are counted over all lists of the model, where cache-dit counts in each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.errors import AttachError, complaint
from bwcache.features import All
from bwcache.models import BlockStack, Place, Site, Tap
from bwcache.policies.base import Observation, Policy, Readings
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry

COUNTED = 5
"""Of how many blocks, the first ones that were asked, the changes make the dynamic threshold."""


@dataclass(frozen=True)
class DBPrune(Policy[None]):
    """Skips each block whose input hardly changed since it last ran, and adds what it added then.

    Args:
        threshold: delta, dimensionless, >= 0; .08 in cache-dit. 0 never reuses.
        first, last: Fn, Bn: how many blocks at the beginning and at the end always run, >= 0.
        warmup: number of steps at the beginning that are always computed, >= 0.
        dynamic: whether the threshold follows what the first blocks of the step changed.
        relax: times their mean, > 0.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1 for each block, and what entered it",
        reads="what enters each block, in each forward",
        verified="cache-dit, bit for bit",
        origin="cache-dit",
    )

    threshold: float = 0.08  # delta
    first: int = 8  # Fn
    last: int = 0  # Bn
    warmup: int = 8
    dynamic: bool = False
    relax: float = 1.25

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.08")
        for name in ("first", "last"):
            value = getattr(self, name)
            expect(whole(value, 0), name, value, "a whole number of blocks >= 0", "1")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "8")
        expect(isinstance(self.dynamic, bool), "dynamic", self.dynamic, "True or False", "True")
        expect(number(self.relax) and self.relax > 0, "relax", self.relax, "a number > 0", "1.25")

    probes = True  # what enters a block in this very step is what it looks at

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Each block but the first and the last ones; what it adds to each stream that enters and leaves it.

        Raises:
            AttachError: no block is left.
        """
        return tuple(added_by(stack, block) for block in self._asked(stack))

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """What enters each of them, all of it."""
        return stack.taps(self._asked(stack), end="in", view=All()) if self.may_reuse else ()

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """d against delta."""
        if observation.step.index < self.warmup:
            return compute(f"warm-up (the first {self.warmup} steps)")
        now = observation.now
        change = now.at(observation.site)  # d
        if change is None:
            return compute("nothing to compare with yet")
        if not math.isfinite(change):
            return compute("indicator is not finite", change)
        most = self._most(now, now.places.index(observation.site))
        if change < most:
            return reuse(f"block's input hardly changed ({change:.4f} < {most:.4g})", change)
        return compute(f"block's input changed ({change:.4f} >= {most:.4g})", change)

    def _asked(self, stack: BlockStack) -> tuple[Place, ...]:
        """The blocks between those that always run.

        Raises:
            AttachError: there is none.
        """
        blocks = stack.blocks[self.first : len(stack.blocks) - self.last]
        if not blocks:
            found = f"{len(stack.blocks)} blocks in {stack.spec.model}, of which {self.first} + {self.last} always run"
            raise AttachError(complaint(found, "some between them", "lower first and last"))
        return blocks

    def _most(self, now: Readings, asked: int) -> float:
        """delta as of a block before which so many were asked."""
        if not self.dynamic:
            return self.threshold
        before = [change for i in range(min(asked, COUNTED)) if (change := now[i])]
        relaxed = self.relax * sum(before) / len(before) if before else 0.0
        return relaxed if self.threshold < relaxed < 2 * self.threshold else self.threshold


def added_by(stack: BlockStack, block: Place) -> Site:
    """Return the site of what a block adds to each stream that enters and leaves it."""
    streams = tuple(stream.name for stream in block.streams if stream.position is not None)
    return stack.site(block, keeps="residual", streams=streams)
