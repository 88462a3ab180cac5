"""BWCache: Accelerating Video Diffusion Transformers through Block-Wise Caching.

Cui, Tang, Xu, Yao, Zeng, Jia; arXiv 2509.13789 v3, ICLR 2026. Training-free. Symbols of the paper: T steps, N blocks,
h[t, i] the output of block i at step t, delta the threshold, R the reuse interval, k the first trigger.

1. In every computed step, each block's output is compared with the last computed one (Eq. 5):
   L1rel(h[t, i]) = ||h[t, i] - h[t+1, i]||_1 / ||h[t+1, i]||_1, and the blocks are averaged: ARL1(t) / N (Eq. 6, 7).
2. Below delta, the next R steps reuse the features; then one step is computed, and the question is asked again (Eq. 8).
3. After the first trigger, the last ceil(k / 2) steps are always computed: there the fine detail forms.

Readings where the text leaves room:

- k is the index, from 0, of the first reused step: as many steps were computed before it.
- R below 1 is a share of T, rounded half up and at least 1; from 1 on it is a number of steps.
- The step computed after a window compares itself with the features reused until then; below delta the next window
  opens at once, otherwise plain computing goes on.
- Guidance branches in two forwards pool numerators and denominators over both: what one batched forward measures.

The published ports of the authors' code read it otherwise, and `retrigger=False` is their way: the first trigger
decides for the whole run. From there on R steps are reused and one is computed in turn, whatever the indicator says; k
is the index of the computed step that triggered, and the last int(k / 2) steps are computed. They measure what enters
the attention of each block, normed and modulated (`compared="inputs"`), where here, as in the text, it is what leaves
the block.

Deviation: the paper stores every block's output and replays each. Only the last one is read by anything, so only that
is kept (models/spec.py: `read_after`), and the others are compared by a sample of their entries unless `sample=1`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from bwcache.core import Decision, Step, compute, reuse
from bwcache.features import Last, Predictor
from bwcache.former_names import takes_former_fields
from bwcache.models import BlockStack, Tap
from bwcache.policies.base import Observation, Policy, Readings
from bwcache.policies.checks import expect, expect_predictor, number, one_of, share
from bwcache.policies.entry import Entry, Paper

ATTENTION = ("self", "joint", "temporal")
"""Kinds of parts, of which the first in a block is what the time has scaled and shifted its input for."""


@dataclass
class Decider:
    """What is known of the branches that decide together."""

    first_trigger: int | None = None
    remaining: int = 0
    opened: int = 0
    progress: float | None = None
    measured_at: int = -1
    measured: Readings | None = None
    complete: bool = False
    decided_at: int = -1
    decision: Decision = field(default_factory=lambda: compute("first step"))


@dataclass
class State:
    """Those of one run: one for all branches, or one per branch."""

    deciders: dict[str, Decider] = field(default_factory=dict)


@takes_former_fields
@dataclass(frozen=True)
class BWCache(Policy[State]):
    """Replays the whole stack of blocks while its outputs hardly change.

    Args:
        threshold: delta, dimensionless, >= 0; the paper's modes are .15, .20 ("mid") and .25 ("fast"). 0 never reuses,
            and so measures nothing: `NeverReuse(measures="default")` measures without reusing.
        reuse_interval: R. Below 1 a share of the steps, from 1 on a number of steps.
        tail_guard: share of k that is always computed at the end, 0..1 (1/2 in the paper).
        interval_unit: in what R is counted: "steps", as in the paper, or "progress", half in steps and half in noise
            (`Step.progress`); R is then a share of the run, and windows are longer where the steps are small.
        sample: share of the entries of each block's output that are compared, 0..1; 1 compares all of them, as
            the paper does, and keeps N hidden states; None keeps samples of at most 262,144 entries in all, and of less
            than a quarter of one hidden state.
        blocks: indices of the blocks that are compared; None for all.
        retrigger: whether the question is asked again after each window, or the first trigger decides for the whole
            run.
        compared: of each block its "outputs", as in the paper, or the "inputs" of its first attention, normed and
            modulated, as in the published ports; these need models whose row has the parts of blocks.
        decision: whether guidance branches in forwards of their own decide together ("shared") or each for itself
            ("per_branch").
        predictor: how a skipped feature is made: `Last()` replays, as the paper does; `Linear()` extrapolates in sigma.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="the output of every block, once per computed step",
        verified="a second implementation, bit for bit; sequences worked out by hand",
        paper=Paper(
            title="BWCache: Accelerating Video Diffusion Transformers through Block-Wise Caching",
            authors="Cui, Tang, Xu, Yao, Zeng, Jia",
            arxiv="2509.13789",
            venue="ICLR 2026",
        ),
    )

    threshold: float = 0.15  # delta
    reuse_interval: float = 0.10  # R
    tail_guard: float = 0.5
    interval_unit: Literal["steps", "progress"] = "steps"
    sample: float | None = None
    blocks: tuple[int, ...] | None = None
    decision: Literal["shared", "per_branch"] = "shared"
    predictor: Predictor = field(default_factory=Last)
    retrigger: bool = True
    compared: Literal["outputs", "inputs"] = "outputs"

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.15")
        whole = number(self.reuse_interval) and (self.reuse_interval < 1 or self.reuse_interval % 1 == 0)
        expect(
            whole and self.reuse_interval > 0,
            "reuse_interval",
            self.reuse_interval,
            "a share of the steps in (0, 1) or a whole number of steps >= 1",
            "0.10",
        )
        expect(
            number(self.tail_guard) and 0 <= self.tail_guard <= 1,
            "tail_guard",
            self.tail_guard,
            "a number 0..1",
            "0.5",
        )
        sampled = self.sample is None or share(self.sample)
        expect(sampled, "sample", self.sample, "a share in (0, 1], or None", "1 for all entries")
        known = one_of(self.interval_unit, ("steps", "progress"))
        expect(known, "interval_unit", self.interval_unit, "steps or progress", "steps")
        counted = self.interval_unit == "steps" or self.reuse_interval < 1
        expect(counted, "reuse_interval", self.reuse_interval, "a share of the run, if counted in progress", "0.10")
        expect(
            one_of(self.decision, ("shared", "per_branch")), "decision", self.decision, "shared or per_branch", "shared"
        )
        expect(self.blocks is None or _indices(self.blocks), "blocks", self.blocks, "block indices, or None", "None")
        expect_predictor(self.predictor)
        expect(isinstance(self.retrigger, bool), "retrigger", self.retrigger, "True or False", "True")
        known = one_of(self.compared, ("outputs", "inputs"))
        expect(known, "compared", self.compared, "outputs or inputs", "outputs")

    @property
    def tap_share(self) -> float | None:
        """`sample`."""
        return self.sample

    @property
    def feature_predictor(self) -> Predictor:
        """`predictor`."""
        return self.predictor

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    @property
    def needs_total(self) -> bool:
        """For the window and the tail guard."""
        return True

    def window(self, total: int) -> int:
        """R in steps, for a run of `total` steps.

        Raises:
            SettingError: R is longer than the run.
        """
        if self.reuse_interval < 1:
            return max(1, math.floor(self.reuse_interval * total + 0.5))
        steps = int(self.reuse_interval)
        expect(steps <= total, "reuse_interval", steps, f"at most the {total} steps of the run", "a share such as 0.1")
        return steps

    def check(self, total: int) -> None:
        """Raises `SettingError` where R is longer than the run."""
        self.window(total)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """All blocks, or the chosen ones, in the order of the forward; none where nothing could come of it.

        Raises:
            SettingError: there is no such block; their attentions are compared, and the model's row names none.
        """
        if not self.may_reuse:
            return ()
        count = len(stack.blocks)
        chosen = range(count) if self.blocks is None else sorted({_index(block, count) for block in self.blocks})
        if self.compared == "outputs":
            return stack.taps(chosen)
        kinds = [kind for kind in ATTENTION if kind in stack.kinds] or ATTENTION[:1]
        firsts = {part.block: part for part in reversed(stack.parts(*kinds))}
        return tuple(stack.tap(firsts[block], end="in") for block in chosen if block in firsts)

    def init(self) -> State:
        """No trigger, no window, nothing measured."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """Eq. 7, 8 and the tail guard. Branches that decide together follow the first one's decision of each step."""
        step = observation.step
        if step.total is None:
            return compute("number of steps unknown: pass steps= where nobody says it")
        decider = self._decider(step, state)
        if decider.decided_at != step.index:
            decider.decided_at, decider.decision = step.index, self._decide(step, step.total, decider)
        return decider.decision

    def refresh(self, observation: Observation, state: State) -> None:
        """Eq. 5 and 6: takes the distances of a computed step; a computation without any ends a window."""
        step, measured = observation.step, observation.last
        decider = self._decider(step, state)
        decider.remaining, decider.progress = 0, step.progress
        if decider.measured_at != step.index:
            decider.measured_at, decider.measured, decider.complete = step.index, measured, measured is not None
        elif measured is None or decider.measured is None:
            decider.complete = False
        else:
            decider.measured += measured

    def _decider(self, step: Step, state: State) -> Decider:
        together = f"#{step.sample}" if self.decision == "shared" else step.lane
        found = state.deciders.get(together)
        if found is None:
            found = state.deciders[together] = Decider()
        return found

    def _decide(self, step: Step, total: int, decider: Decider) -> Decision:
        if decider.first_trigger is not None and step.index >= self._tail_start(decider.first_trigger, total):
            return compute(f"tail guard (the last {total - self._tail_start(decider.first_trigger, total)} steps)")
        if decider.remaining > 0:
            decision = self._goes_on(step, total, decider)
            if decision is not None:
                return decision
        if decider.measured_at < 0:
            return compute("first step")
        if decider.measured_at != step.index - 1:
            return compute(f"window over (after {step.index - decider.opened} reused steps)")
        if decider.first_trigger is not None and not self.retrigger:
            return self._opens(step, total, decider, "as the first")
        if not decider.complete or decider.measured is None:
            return compute("nothing to compare with yet")
        return self._trigger(step, total, decider, decider.measured.mean)

    def _goes_on(self, step: Step, total: int, decider: Decider) -> Decision | None:
        """The window's next step, or None where it is over."""
        if self.interval_unit == "steps":
            window, decider.remaining = self.window(total), decider.remaining - 1
            gone = window - decider.remaining
            return reuse(f"reuse window (step {gone} of {window}, opened at step {decider.opened})")
        if step.progress is None or decider.progress is None:
            return None
        share = step.progress - decider.progress
        if share > self.reuse_interval + 1e-9:
            return None
        length = f"{share:.3f} of {self.reuse_interval:g} of the run"
        return reuse(f"reuse window ({length}, opened at step {decider.opened})")

    def _trigger(self, step: Step, total: int, decider: Decider, indicator: float) -> Decision:
        if not math.isfinite(indicator):
            return compute("indicator is not finite", indicator)
        if not indicator < self.threshold:
            return compute(f"still changing (indicator {indicator:.4f} >= {self.threshold:g})", indicator)
        if decider.first_trigger is None:
            decider.first_trigger = step.index
        if step.index >= self._tail_start(decider.first_trigger, total):
            return compute("tail guard (reached with the first trigger)", indicator)
        why = f"indicator {indicator:.4f} < {self.threshold:g}"
        return self._opens(step, total, decider, why, indicator)

    def _opens(self, step: Step, total: int, decider: Decider, why: str, indicator: float | None = None) -> Decision:
        window = self.window(total) if self.interval_unit == "steps" else total
        decider.opened, decider.remaining = step.index, window - 1
        length = f"{window} steps" if self.interval_unit == "steps" else f"{self.reuse_interval:g} of the run"
        return reuse(f"opens a window ({why}, {length})", indicator)

    def _tail_start(self, first_trigger: int, total: int) -> int:
        if not self.retrigger:
            return total - math.floor((first_trigger - 1) * self.tail_guard + 1e-9)
        return total - math.ceil(first_trigger * self.tail_guard - 1e-9)  # 100 * 0.07 is not quite 7


def _indices(value: object) -> bool:
    some = value if isinstance(value, (tuple, list)) else ()
    return len(some) > 0 and all(isinstance(i, int) and not isinstance(i, bool) for i in some)


def _index(block: int, count: int) -> int:
    expect(-count <= block < count, "blocks", block, f"indices of the {count} blocks", f"0 to {count - 1}")
    return block % count
