"""MixCache: Mixture-of-Cache for Video Diffusion Transformer Acceleration.

Wei, Diao, Chen, Cheng, Qian, Yu, Xiao, Lin, Du; arXiv 2508.12691. Training-free. Symbols of the paper: psi one of three
granularities, D how far what it keeps has changed, I how much a wrong value there harms the result, P the priority.

1. Three things can be skipped: the step (all blocks, in all guidance branches), guidance (the unconditional branch is
   made of the conditional one, by how it stood beside it), or blocks (those in the middle; what they add is added).
2. The first steps are computed in full, and then one in each interval. In the steps between one granularity is skipped:
   that with the least P = D * I; the one that was skipped last counts `penalty` times.
3. The interval gets longer by a step where the change is below delta[1], and shorter where it is above delta[2].

Unverified: there is no code, and of D, I, both deltas, the warm-up, the first interval and which blocks are skipped the
known sources give no definition or number. So this is a method in MixCache's style. Read here as:

- D of psi is the relative L1 change of what psi keeps (what all blocks add, the difference between the branches, what
  the middle blocks add), from where it was last computed to the last full step, per step, the mean over the branches;
  the newer one divides, and where several streams are kept the video's counts.
- I is given by the user, one number for each; with 1, 1, 1 the change alone decides. The paper measures it with
  Gaussian noise.
- The change that moves the interval is D of the step, in each full step as of the last one of the warm-up. An interval
  gets no shorter than two steps; one that begins with a single step stays so until it gets longer.
- In a step in which one granularity is skipped, the other two are kept as they then come out.
- Without a second branch, or where the model has no blocks between the first and the last ones, those that are left are
  chosen from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from bwcache.core import Decision, Step, compute, reuse
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.sites import added_by_all

Granularity = Literal["step", "guidance", "block"]

GRANULARITIES: tuple[Granularity, ...] = ("step", "guidance", "block")
"""From the one that saves most to the one that saves least."""

SHORTEST = 2
"""The interval is not shortened below: of two steps one is skipped."""


@dataclass
class Sample:
    """One sample of one denoiser, over all branches.

    Attributes:
        full: the last step that was computed in full.
        interval: from one full step to the next, by now.
        index, choice, priority: the last step that was asked for, what is skipped in it, and its P.
        why: the reason, if nothing is skipped.
        skipped: what was skipped last.
        changes: of the last full step, by granularity, one for each branch: relative, per step.
        computed: the step in which each one was last computed in each lane.
        moved: whether the interval is that after the last full step.
    """

    interval: int
    full: int = -1
    index: int = -1
    choice: Granularity | None = None
    priority: float = 0.0
    why: str = ""
    skipped: Granularity | None = None
    changes: dict[Granularity, list[float]] = field(default_factory=dict)
    computed: dict[tuple[Granularity, str], int] = field(default_factory=dict)
    moved: bool = False

    def change(self, granularity: Granularity) -> float | None:
        """D, the mean over the branches; None where it is not known."""
        found = self.changes.get(granularity)
        return sum(found) / len(found) if found else None


Samples = dict[tuple[str, int | None], Sample]


@dataclass(frozen=True)
class MixCache(Policy[Samples]):
    """Skips the step, the unconditional branch or the middle blocks, whichever changed least and was not skipped last.

    Args:
        warmup: number of steps at the beginning that are computed in full, >= 0.
        interval: steps from one full step to the next, to begin with, >= 1.
        longest: steps from one full step to the next at most, >= interval; 1 never reuses.
        low, high: delta[1], delta[2], dimensionless, >= 0, low <= high: the change of the step, per step, below which
            the interval gets longer, and above which it gets shorter.
        impact: I of the step, of guidance and of blocks, each > 0.
        penalty: by which the P of what was skipped last is multiplied, >= 1.
        first, last: how many blocks at the beginning and at the end are not skipped with the middle ones, >= 0.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1 of all blocks, 1 of the middle ones, and 2 of the size of the latents",
        reads="how far each of these was off, in each full step",
        verified="a second implementation in numpy by another hand, and one by ours; its D, deltas, warm-up and "
        "blocks against nothing: the paper's are not known",
        calibration="I, the impact of each granularity: given by hand, 1 by default",
        paper=Paper(
            title="MixCache: Mixture-of-Cache for Video Diffusion Transformer Acceleration",
            authors="Wei, Diao, Chen, Cheng, Qian, Yu, Xiao, Lin, Du",
            arxiv="2508.12691",
        ),
    )

    warmup: int = 5
    interval: int = 3
    longest: int = 5
    low: float = 0.05  # delta[1]
    high: float = 0.2  # delta[2]
    impact: tuple[float, float, float] = (1.0, 1.0, 1.0)  # I
    penalty: float = 5.0
    first: int = 1
    last: int = 1

    def __post_init__(self) -> None:
        for name in ("warmup", "first", "last"):
            expect(whole(getattr(self, name), 0), name, getattr(self, name), "a whole number >= 0", "1")
        expect(whole(self.interval, 1), "interval", self.interval, "a whole number of steps >= 1", "3")
        fine = whole(self.longest, 1) and self.longest >= self.interval
        expect(fine, "longest", self.longest, f"a whole number of steps >= interval ({self.interval})", "5")
        expect(number(self.low) and self.low >= 0, "low", self.low, "a number >= 0", "0.05")
        expect(number(self.high) and self.high >= self.low, "high", self.high, f"a number >= low ({self.low:g})", "0.2")
        three = isinstance(self.impact, (tuple, list)) and len(self.impact) == len(GRANULARITIES)
        fine = three and all(number(value) and value > 0 for value in self.impact)
        expect(fine, "impact", self.impact, "three numbers > 0: step, guidance, block", "(1, 1, 1)")
        expect(number(self.penalty) and self.penalty >= 1, "penalty", self.penalty, "a number >= 1", "5")
        object.__setattr__(self, "impact", tuple(map(float, self.impact)))

    needs_errors = True  # D

    @property
    def may_reuse(self) -> bool:
        """Not where each step is computed in full."""
        return self.longest > 1

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """One within the other: the unconditional branch beside the conditional one, all blocks, the middle ones."""
        guidance = stack.site(stack.root, keeps="beside", beside="cond")
        step = replace(added_by_all(stack), name="stack")
        middle = stack.blocks[self.first : len(stack.blocks) - self.last]
        if not middle or len(middle) == len(stack.blocks) or stack.spec.interleaved:
            return (guidance, step)
        streams = tuple(stream.name for stream in middle[-1].streams if stream.position is not None)
        return (guidance, step, stack.site(middle[0], middle[-1], keeps="residual", streams=streams))

    def init(self) -> Samples:
        """No full step yet."""
        return {}

    def decide(self, observation: Observation, state: Samples) -> Decision:
        """The step's choice, the same for all branches and sites."""
        own, step = self._sample(observation, state), observation.step
        if own.index != step.index:
            self._choose(own, step)
        if own.choice is None:
            return compute(own.why)
        if own.choice != _granularity(observation):
            return compute(f"another granularity is skipped ({own.choice})", own.priority)
        return reuse(f"granularity of the least priority ({own.choice}, {own.priority:.4g})", own.priority)

    def refresh(self, observation: Observation, state: Samples) -> None:
        """What was computed in full, and how far each granularity would have been off."""
        own, step = self._sample(observation, state), observation.step
        granularity = _granularity(observation)
        before = own.computed.get((granularity, step.lane), step.index)
        own.computed[granularity, step.lane] = step.index
        if own.index == step.index and own.choice is not None:
            return
        if own.full != step.index:
            own.full, own.changes, own.moved = step.index, {}, False
        if observation.error is not None:
            own.changes.setdefault(granularity, []).append(observation.error.error / max(step.index - before, 1))

    def _sample(self, observation: Observation, state: Samples) -> Sample:
        key = observation.denoiser, observation.step.sample
        return state.setdefault(key, Sample(self.interval))

    def _choose(self, own: Sample, step: Step) -> None:
        """What is skipped in a step: rules 2 and 3."""
        own.index, own.choice = step.index, None
        if step.index < self.warmup:
            own.why = f"warm-up (the first {self.warmup} steps)"
            return
        self._move(own)
        if step.index - own.full >= own.interval:
            own.why = f"interval over (after {step.index - own.full - 1} reused steps)"
            return
        priorities = self._priorities(own)
        if not priorities:
            own.why = "nothing to compare with yet"
            return
        if not all(map(math.isfinite, priorities.values())):
            own.why = "indicator is not finite"
            return
        least = min(priorities, key=lambda granularity: priorities[granularity])
        own.choice = own.skipped = least
        own.priority = priorities[least]

    def _move(self, own: Sample) -> None:
        """The interval after a full step."""
        change = own.change("step")
        if own.moved or change is None or not math.isfinite(change):
            return
        own.moved = True
        if change < self.low:
            own.interval = min(own.interval + 1, self.longest)
        elif change > self.high:
            own.interval = max(own.interval - 1, min(SHORTEST, own.interval))

    def _priorities(self, own: Sample) -> dict[Granularity, float]:
        """P of each granularity whose D is known."""
        found: dict[Granularity, float] = {}
        for granularity, impact in zip(GRANULARITIES, self.impact, strict=True):
            change = own.change(granularity)
            if change is not None:
                found[granularity] = change * impact * (self.penalty if granularity == own.skipped else 1.0)
        return found


def _granularity(observation: Observation) -> Granularity:
    if observation.kind == "root":
        return "guidance"
    return "step" if observation.site == "stack" else "block"
