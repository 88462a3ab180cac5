"""First-Block Cache: the first block always runs, and by its change the others are computed or not.

Cheng Zeyi, ParaAttention (2024), no paper; after TeaCache (Liu et al., arXiv 2411.19108). Symbols: h[t, i] the output
of block i at step t, x[t] what enters the first one, L blocks, delta the threshold.

1. The residual of the first block, r[t] = h[t, 1] - x[t], is compared with that of the last step t' that was computed
   in full: d = mean|r[t] - r[t']| / mean|r[t']|.
2. d > delta: the other blocks are computed, and h[t, L] - h[t, 1] is kept for each stream that they hand on.
3. Otherwise h[t, 1] + (h[t', L] - h[t', 1]) stands for the last block's output. Nothing adds up from step to step.

Each forward decides by itself, with the first block's residual in hand: one wait for the device each. A batch decides
as one, guidance in two forwards branch by branch.

Deviation: sums are taken in float32, whatever the model's precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.errors import AttachError, complaint
from bwcache.features import All
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number
from bwcache.policies.entry import Entry
from bwcache.policies.published import Published

PUBLISHED: Mapping[str, Published] = {
    "FLUX.1-dev 1.21x": Published({"threshold": 0.06}, "ParaAttention, on an L20"),
    "FLUX.1-dev 1.55x": Published({"threshold": 0.08}, "ParaAttention, on an L20"),
    "FLUX.1-dev 1.65x": Published({"threshold": 0.1}, "ParaAttention, on an L20"),
    "FLUX.1-dev 1.91x": Published({"threshold": 0.12}, "ParaAttention, on an L20"),
    "diffusers": Published({"threshold": 0.05}, "diffusers' default, whatever the model"),
}
"""By model and speed."""


@dataclass(frozen=True)
class FirstBlock(Policy[None]):
    """Runs the first block in every step, and replays what the others add while its residual hardly changes.

    Args:
        threshold: delta, dimensionless, >= 0; .05 in diffusers, .06 to .12 for FLUX in ParaAttention. 0 never reuses.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1 for each stream",
        reads="what the first block adds, in each forward",
        verified="diffusers' hook, bit for bit",
        origin="ParaAttention",
    )

    threshold: float = 0.05  # delta

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.05")

    probes = True  # the first block's output in this very step is what it looks at

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks but the first, as one; what they add to each stream that enters them and leaves them.

        Raises:
            AttachError: there is but one block.
        """
        if len(stack.blocks) < 2:
            raise AttachError(complaint(f"one block in {stack.spec.model}", "at least two", "choose another policy"))
        second, last = stack.blocks[1], stack.blocks[-1]
        entering = {stream.name for stream in second.streams if stream.position is not None}
        streams = tuple(stream.name for stream in last.streams if stream.name in entering)
        return (stack.site(second, last, keeps="residual", streams=streams),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """The residual of the first block, all of it."""
        return (stack.tap(0, end="residual", view=All()),) if self.may_reuse else ()

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """d against delta."""
        change = observation.now[0]  # d
        if change is None:
            return compute("nothing to compare with yet")
        if not math.isfinite(change):
            return compute("indicator is not finite", change)
        if change > self.threshold:
            return compute(f"first block changed ({change:.4f} > {self.threshold:g})", change)
        return reuse(f"first block hardly changed ({change:.4f} <= {self.threshold:g})", change)
