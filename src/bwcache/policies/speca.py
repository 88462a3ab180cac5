"""SpeCa: Accelerating Diffusion Transformers with Speculative Feature Caching.

Liu, Zou, Lyu, Ren, Wang, Li, Zhang; arXiv 2509.11628, ACM MM 2025. Training-free. Symbols of the paper: tau[0] the
threshold, beta its decay, e the error of a draft.

1. After a step that is computed in full come drafts: every layer is forecast as in TaylorSeer (`taylorseer`).
2. The first drafts of a window are taken as they are. In each later one the last block runs for all that: on the
   forecast that reaches it. e is how far its forecast lies from what it returned, |forecast - real| / |real|.
3. Where e > max(tau[0] * beta ** progress, floor), the next step is computed in full. So is the one after the last
   draft that a window may have. What the last block returned in a checked draft does not enter the differences.

Progress is the share of steps that began, 1 in the last one. The step after a full one is a draft also during the
warm-up, where drafts are never taken twice in a row.

Readings: e is the relative L1 error of the whole feature, on a sample of it. (The released code takes the mean of the
relative errors of all entries, most of which is those near zero, and offers others.) The last block is one layer here:
it is forecast and checked as a whole, in both modes. What it returned goes on, since it is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core import Decision, Step, check, compute, reuse
from bwcache.errors import AttachError, complaint
from bwcache.features import Predictor
from bwcache.features.differences import Differences
from bwcache.features.predictors import MOST_ORDERS
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import CODE, Published
from bwcache.policies.taylorseer import layers

WHOLE = f"{CODE}, whose e is the mean of relative errors of entries: another one than here"

PUBLISHED: Mapping[str, Published] = {
    "DiT-XL/2": Published(
        {"threshold": 0.1, "decay": 0.01, "floor": 0.01, "unchecked": 2, "longest": 5, "order": 4}, WHOLE
    ),
    "HunyuanVideo": Published(
        {"threshold": 1.0, "decay": 0.1, "floor": 0.1, "unchecked": 4, "longest": 12, "order": 1}, WHOLE
    ),
}
"""By model."""


@dataclass
class Window:
    """One lane of one denoiser.

    Attributes:
        began: its first step, in which every site ran, in order.
        full: its last full step.
        checked: the site by which drafts are checked: the last one.
        error: of the last draft that was checked after the full step.
    """

    began: int
    full: int
    checked: str
    error: float | None = None


Windows = dict[tuple[str, str], Window]


@dataclass(frozen=True)
class SpeCa(Policy[Windows]):
    """Drafts steps by differences, checks the drafts at the last block, and computes in full after one that is off.

    Args:
        threshold: tau[0], dimensionless, >= 0; .1 for DiT, 1 for HunyuanVideo by the authors' measure.
        decay: beta, > 0; .01 for DiT, .1 for HunyuanVideo.
        floor: below which the threshold does not fall, >= 0; .01 for DiT, .1 for FLUX and HunyuanVideo.
        unchecked: drafts at the beginning of a window that are not checked, >= 0; 2 for DiT, 4 for HunyuanVideo.
        longest: drafts of a window at most, >= 1; 5 for DiT, 12 for HunyuanVideo.
        order: of the highest difference, 0..9; 4 for DiT, 1 for HunyuanVideo.
        warmup: number of steps at the beginning in which no two drafts follow each other, >= 0.
        lite: whether all blocks but the last are forecast as one, and not layer by layer.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="5 for each layer (`order` + 1), or in all with `lite`",
        reads="the last block, in checked steps",
        verified="two implementations in numpy",
        paper=Paper(
            title="SpeCa: Accelerating Diffusion Transformers with Speculative Feature Caching",
            authors="Liu, Zou, Lyu, Ren, Wang, Li, Zhang",
            arxiv="2509.11628",
            venue="ACM MM 2025",
        ),
    )

    threshold: float = 0.1  # tau[0]
    decay: float = 0.01  # beta
    floor: float = 0.01
    unchecked: int = 2
    longest: int = 5
    order: int = 4
    warmup: int = 3
    lite: bool = False

    def __post_init__(self) -> None:
        for name, instead in (("threshold", "0.1"), ("floor", "0.01")):
            value = getattr(self, name)
            expect(number(value) and value >= 0, name, value, "a number >= 0", instead)
        expect(number(self.decay) and 0 < self.decay <= 1, "decay", self.decay, "a number in (0, 1]", "0.01")
        expect(whole(self.unchecked, 0), "unchecked", self.unchecked, "a whole number of drafts >= 0", "2")
        expect(whole(self.longest, 1), "longest", self.longest, "a whole number of drafts >= 1", "5")
        expect(whole(self.order, 0) and self.order <= MOST_ORDERS, "order", self.order, f"0 to {MOST_ORDERS}", "4")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "3")
        expect(isinstance(self.lite, bool), "lite", self.lite, "True or False", "True")

    @property
    def feature_predictor(self) -> Predictor:
        """The draft."""
        return Differences(self.order)

    needs_total = True  # for the progress

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Each layer of the blocks before the last one, or these blocks as one; and the last block.

        Raises:
            AttachError: there is but one block, or none has parts and it is not `lite`.
        """
        if len(stack.blocks) < 2:
            found, action = f"one block in {stack.spec.model}", "choose another policy"
            raise AttachError(complaint(found, "at least two: one to check the others by", action))
        last = stack.blocks[-1]
        if self.lite:
            return (stack.site(stack.blocks[0], stack.blocks[-2]), stack.site(last))
        before = tuple(site for site in layers(stack, "SpeCa") if site.first.block != last.block)
        return (*before, stack.site(last))

    def init(self) -> Windows:
        """No window has begun."""
        return {}

    def decide(self, observation: Observation, state: Windows) -> Decision:
        """The number of drafts since the last full step, and the last one's error."""
        step, own = observation.step, state[observation.denoiser, observation.step.lane]
        drafts = step.index - own.full - 1  # that this window has had
        if drafts == 0:
            return reuse("draft (step 1 after a computed one)")
        if step.index < self.warmup:
            return compute(f"warm-up (the first {self.warmup} steps)")
        if drafts >= self.longest:
            return compute(f"interval over (after {drafts} reused steps)")
        if drafts >= self.unchecked and own.error is not None:
            if not math.isfinite(own.error):
                return compute("prediction error is not finite", own.error)
            limit = self._limit(step)
            if own.error > limit:
                return compute(f"draft was off ({own.error:.4f} > {limit:.4f})", own.error)
        if drafts >= self.unchecked and observation.site == own.checked:
            return check(f"draft is checked (step {drafts + 1} after a computed one)")
        return reuse(f"draft (step {drafts + 1} after a computed one)")

    def refresh(self, observation: Observation, state: Windows) -> None:
        """A full step begins a window; a checked draft says how far it was off."""
        key, index = (observation.denoiser, observation.step.lane), observation.step.index
        own = state.setdefault(key, Window(index, index, observation.site))
        if index == own.began:
            own.checked = observation.site
        if observation.error is not None and observation.site == own.checked:
            own.error = observation.error.error
        elif index > own.full:
            own.full, own.error = index, None

    def _limit(self, step: Step) -> float:
        """What a draft may be off, as of this step."""
        assert step.total is not None
        progress = (step.index + 1) / step.total
        return float(max(self.threshold * self.decay**progress, self.floor))
