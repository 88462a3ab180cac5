"""DBCache: dual block cache. First and last blocks run in every step, and by the first those between are skipped.

DefTruth and others, cache-dit (2025), no paper; after First-Block Cache of ParaAttention. Symbols of its documentation:
Fn blocks in front, Bn blocks at the back, M those between, r[t] what the blocks in front add at step t.

1. The Fn blocks in front run in every step. What they add is compared with the last step t' that was computed in full:
   d = mean|r[t] - r[t']| / mean|r[t']|.
2. d below the threshold: the M blocks are skipped, and what they added to each stream at t' is added again. Else they
   are computed.
3. The Bn blocks at the back run in every step, on what was made of the M blocks: they mend it.
4. The first `warmup` steps are computed, and a step after `longest` skipped ones, and all once `most` were skipped.

`FirstBlock` is Fn = 1 and Bn = 0 with the threshold included. Each branch of its own forward decides for itself. One
wait for the device in each forward.

Reading: a model with two lists of blocks (FLUX, HunyuanVideo) is one stack of all of them; cache-dit has fronts and
backs in each list. Deviation: a threshold of 1 or more is a number like others; cache-dit skips whatever d is.
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
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry
from bwcache.policies.published import Published

PUBLISHED: Mapping[str, Published] = {
    "FLUX.1-dev 1.80x": Published({"threshold": 0.08, "front": 8, "back": 0, "warmup": 4}, "cache-dit, 50 steps"),
    "FLUX.1-dev 2.66x": Published(
        {"threshold": 0.12, "front": 4, "back": 0, "warmup": 4, "longest": 4}, "cache-dit, 50 steps"
    ),
}
"""By model and speed."""


@dataclass
class Skipped:
    """Of one lane: how many steps were skipped in the run, and how many since it was last computed."""

    all: int = 0
    running: int = 0


Lanes = dict[tuple[str, str], Skipped]


@dataclass(frozen=True)
class DBCache(Policy[Lanes]):
    """Runs the first and last blocks in every step, and skips those between while what the first add hardly changes.

    Args:
        threshold: dimensionless, >= 0; .08 in cache-dit, .12 for more speed. 0 never reuses.
        front: Fn, how many blocks at the beginning run in every step, >= 1; 8 in cache-dit, 1 to 12.
        back: Bn, how many blocks at the end run in every step, >= 0.
        warmup: number of steps at the beginning that are always computed, >= 0.
        longest: at most so many steps are skipped in a row, >= 1; None: any number.
        most: at most so many steps are skipped in a run, >= 0; None: any number.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1 for each stream",
        reads="what the blocks in front add, in each forward",
        verified="cache-dit, bit for bit; on two lists of blocks a second implementation",
        origin="cache-dit",
    )

    threshold: float = 0.08
    front: int = 8  # Fn
    back: int = 0  # Bn
    warmup: int = 8
    longest: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.08")
        expect(whole(self.front, 1), "front", self.front, "a whole number of blocks >= 1", "8")
        expect(whole(self.back, 0), "back", self.back, "a whole number of blocks >= 0", "0")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "8")
        fine = self.longest is None or whole(self.longest, 1)
        expect(fine, "longest", self.longest, "a whole number of steps >= 1, or None", "4")
        fine = self.most is None or whole(self.most, 0)
        expect(fine, "most", self.most, "a whole number of steps >= 0, or None", "20")

    probes = True  # what the first blocks add in this very step is what it looks at

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0, nor where no step may be skipped."""
        return self.threshold > 0 and self.most != 0

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The blocks between, as one; what they add to each stream that enters them and leaves them.

        Raises:
            AttachError: there is none between.
        """
        count = len(stack.blocks)
        if self.front + self.back >= count:
            found = f"{count} blocks in {stack.spec.model}, with {self.front} in front and {self.back} at the back"
            raise AttachError(complaint(found, "some between them", "lower front or back"))
        first, last = stack.blocks[self.front], stack.blocks[count - 1 - self.back]
        entering = {stream.name for stream in first.streams if stream.position is not None}
        streams = tuple(stream.name for stream in last.streams if stream.name in entering)
        return (stack.site(first, last, keeps="residual", streams=streams),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """What the blocks in front add, all of it."""
        last, first = stack.blocks[self.front - 1], stack.blocks[0]
        return (stack.tap(last, end="residual", since=first, view=All()),) if self.may_reuse else ()

    def init(self) -> Lanes:
        """Nothing was skipped yet."""
        return {}

    def decide(self, observation: Observation, state: Lanes) -> Decision:
        """d against the threshold, between the guards."""
        skipped = state.setdefault((observation.denoiser, observation.step.lane), Skipped())
        if observation.step.index < self.warmup:
            return compute(f"warm-up (the first {self.warmup} steps)")
        if self.most is not None and skipped.all >= self.most:
            return compute(f"no more steps may be skipped (after {self.most} of the run)")
        if self.longest is not None and skipped.running >= self.longest:
            return compute(f"longest window (after {self.longest} reused steps)")
        change = observation.now[0]  # d
        if change is None:
            return compute("nothing to compare with yet")
        if not math.isfinite(change):
            return compute("indicator is not finite", change)
        if not change < self.threshold:
            return compute(f"first blocks changed ({change:.4f} >= {self.threshold:g})", change)
        skipped.all, skipped.running = skipped.all + 1, skipped.running + 1
        return reuse(f"first blocks hardly changed ({change:.4f} < {self.threshold:g})", change)

    def refresh(self, observation: Observation, state: Lanes) -> None:
        """A computation ends a row of skipped steps."""
        state.setdefault((observation.denoiser, observation.step.lane), Skipped()).running = 0
