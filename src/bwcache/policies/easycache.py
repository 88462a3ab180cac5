"""EasyCache: Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching.

Zhou, Liang, Chen, Feng, Chen, Lin, Ding, Tan, Zhao, Bai; arXiv 2507.02860. Symbols of the paper: x[t] what enters the
denoiser at step t, v[t] what it returns, R steps of warm-up, tau the threshold.

1. How much the output moves with the input hardly changes over the run. At a computed step, against the last computed
   one: k = mean|v[t] - v[t']| / mean|x[t] - x[t']|.
2. So the relative change of an output that is not computed can be told from its input and the step before:
   e = k * mean|x[t] - x[t+1]| / mean|v[t']|.
3. E adds these up. While E < tau the whole denoiser is replayed as x[t] + (v[t'] - x[t']); else it is computed, and E
   starts from 0. The first R steps and the last one are always computed.

With guidance in several forwards the first branch of the run decides for all of them. The input of this very forward is
looked at: one wait for the device in each of the deciding forwards. A batch decides as one.

Deviation: sums are taken in float32, whatever the model's precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bwcache.core import Decision, compute, reuse
from bwcache.features import All, relative_l1
from bwcache.features.prediction_error import ratio
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import Published

PUBLISHED: Mapping[str, Published] = {
    "Wan2.1": Published({"threshold": 0.05, "warmup": 10}),
    "HunyuanVideo": Published({"threshold": 0.025, "warmup": 5}),
}
"""By model."""

SINCE_STEP, SINCE_COMPUTED, OUTPUT = range(3)
"""The taps: the input against the step before, the input and the output against the last computed step."""


@dataclass
class State:
    """One run: the branch that decides, E, and what was decided last."""

    branch: str | None = None
    spent: float = 0.0
    decided_at: int = -1
    decision: Decision = field(default_factory=lambda: compute("first step"))


@dataclass(frozen=True)
class EasyCache(Policy[State]):
    """Replays the whole denoiser while the change of its output, as told from that of its input, stays small.

    Args:
        threshold: tau, dimensionless, >= 0; .05 for Wan 2.1, .025 for HunyuanVideo. 0 never reuses.
        warmup: R, steps at the beginning that are always computed, >= 0; 10 for Wan 2.1, 5 for HunyuanVideo.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1 of the size of the latents",
        reads="the denoiser's input in each step, and its output",
        verified="a second implementation, bit for bit; another in numpy",
        paper=Paper(
            title="Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive Caching",
            authors="Zhou, Liang, Chen, Feng, Chen, Lin, Ding, Tan, Zhao, Bai",
            arxiv="2507.02860",
        ),
    )

    threshold: float = 0.05  # tau
    warmup: int = 10  # R

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.05")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "10")

    probes = True  # the input of this very forward is what it looks at

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    needs_total = True  # for the last step

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The denoiser itself: its output less its input."""
        return (stack.site(stack.root, keeps="residual"),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """Its input, against both, and its output."""
        if not self.may_reuse:
            return ()
        steps = stack.tap(stack.root, end="in", view=All(), against="step")
        inputs = stack.tap(stack.root, end="in", view=All())
        return (steps, inputs, stack.tap(stack.root, view=All(), indicator=newer_divides))

    def init(self) -> State:
        """No branch came by yet, nothing is spent."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """E against tau; other branches than the first follow it."""
        step = observation.step
        if step.branch != state.branch:
            return state.decision if state.decided_at == step.index else compute("the branch that decides computes")
        state.decided_at, state.decision = step.index, self._decide(observation, state)
        if not state.decision.reuses:
            state.spent = 0.0
        return state.decision

    def refresh(self, observation: Observation, state: State) -> None:
        """The branch that comes first decides."""
        state.branch = state.branch or observation.step.branch

    def _decide(self, seen: Observation, state: State) -> Decision:
        index, total, last, now = seen.step.index, seen.step.total or 0, seen.last, seen.now
        if index < self.warmup:
            return compute(f"warm-up (the first {self.warmup} steps)")
        if index >= total - 1:
            return compute("tail (the last step)")
        if last is None or last[OUTPUT] is None or last[SINCE_COMPUTED] is None or now[SINCE_STEP] is None:
            return compute("nothing to compare with yet")
        moved = ratio(now.numerators[SINCE_STEP], last.numerators[SINCE_COMPUTED])
        state.spent += last.distances[OUTPUT] * moved  # e: in it the means of k come down to these two ratios
        if not math.isfinite(state.spent):
            return compute("indicator is not finite", state.spent)
        if state.spent < self.threshold:
            return reuse(f"output hardly changes ({state.spent:.4f} < {self.threshold:g})", state.spent)
        return compute(f"output changes ({state.spent:.4f} >= {self.threshold:g})", state.spent)


def newer_divides(new: Tensor, old: Tensor) -> Tensor:
    """Return the relative L1 change with the newer one below, `[2, T]`: the numerator over ||new||_1."""
    return relative_l1(old, new)
