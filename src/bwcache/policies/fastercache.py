"""FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality.

Lv, Si, Song, Yang, Qiao, Liu, Wong; arXiv 2410.19355, ICLR 2025. Training-free. Symbols of the paper: F what attention
returned at the last two computed steps, w the weight of how it changed, alpha[1] and alpha[2] those of the frequencies.

1. Dynamic feature reuse: in the middle of a run each self-attention is computed in every so many steps. Between them
   what it returned last goes on as it changed: F[t] + w * (F[t] - F[t + 1]), F of computed steps alone.
2. CFG-Cache: in every so many steps both guidance branches are computed, and the spectrum of their difference, uncond
   less cond, is kept. Between them only the conditional branch is, and the difference is added to what it predicts.
3. Of that difference low frequencies are multiplied by alpha[1] in each skipped step of an early window, and high ones
   by alpha[2] in each of a late one; low is what lies within a fifth of the shorter side, around the middle.

Attention is reused only in steps in which the unconditional branch is not computed, or where there is none, or where
CFG-Cache is off.

Readings: a spectrum is as good as what it is of, so that the difference itself is kept. Steps are counted from the
run's first one, and windows are of timesteps, open, as in diffusers, from 1000 down to 0 whatever a scheduler counts.
The weights add up over skipped steps as in the released code. Latents in tokens (FLUX, LTX-Video) have no frequencies
over the picture: their difference is replayed.

Deviation: w is one number, as in most of the authors' scripts; for Open-Sora it grows over the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bwcache.core import Decision, Step, compute, reuse
from bwcache.features import Predictor
from bwcache.features.bands import Bands
from bwcache.features.changed import Changed
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import CODE, Published

WINDOWS = f"{CODE}, whose windows are counted in steps: set them in timesteps of your schedule"
GROWS = f"{WINDOWS}; w grows over the run to .9 there"

PUBLISHED: Mapping[str, Published] = {
    "Open-Sora-1.2": Published({"attention": 2, "guidance": 5, "low": 1.15, "high": 1.15}, GROWS),
    "Latte": Published({"attention": 2, "weight": 0.5, "guidance": 5, "low": 1.1, "high": 1.1}, WINDOWS),
    "CogVideoX": Published({"attention": 3, "weight": 0.3, "guidance": 5, "low": 1.1, "high": 1.1}, WINDOWS),
    "Open-Sora-Plan": Published({"attention": 3, "weight": 0.3, "guidance": 6}, WINDOWS),
}
"""By model; windows as by default are those of diffusers."""

Window = tuple[float, float]

KINDS = ("self", "joint", "temporal")
"""The kinds of parts that are self-attention."""


@dataclass
class Difference:
    """By how much the frequencies of one kept difference are multiplied by now, and as of which step."""

    low: float = 1.0
    high: float = 1.0
    index: int = -1


@dataclass
class State:
    """One run: whether an unconditional branch came by, and the difference of each lane."""

    guided: bool = False
    differences: dict[tuple[str, str], Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class FasterCache(Policy[State]):
    """Lets self-attention go on as it changed, and makes the unconditional branch of the conditional one.

    Args:
        attention: self-attention is computed in every so many steps, >= 1; 2, or 3 for CogVideoX. 1 in each.
        attention_window: between which timesteps, 0..1000, the lower one first.
        weight: w; .3 for CogVideoX and Open-Sora-Plan, .5 for Latte.
        guidance: both branches are computed in every so many steps, >= 1; 5, or 6 for Open-Sora-Plan. 1 in each.
        guidance_window: between which timesteps.
        low, high: alpha[1], alpha[2], > 0; 1.1, or 1.15 for Open-Sora.
        low_window, high_window: between which timesteps each of them multiplies.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2 for each self-attention, and 1 of the size of the latents",
        reads="nothing",
        verified="diffusers' hook for guidance; all of it two implementations in numpy, one by another hand",
        paper=Paper(
            title="FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality",
            authors="Lv, Si, Song, Yang, Qiao, Liu, Wong",
            arxiv="2410.19355",
            venue="ICLR 2025",
        ),
    )

    attention: int = 2
    attention_window: Window = (-1, 681)
    weight: float = 0.5  # w
    guidance: int = 5
    guidance_window: Window = (-1, 641)
    low: float = 1.1  # alpha[1]
    low_window: Window = (99, 901)
    high: float = 1.1  # alpha[2]
    high_window: Window = (-1, 301)

    def __post_init__(self) -> None:
        for name in ("attention", "guidance"):
            value = getattr(self, name)
            expect(whole(value, 1), name, value, "a whole number of steps >= 1", "2")
        for name in ("attention_window", "guidance_window", "low_window", "high_window"):
            window = getattr(self, name)
            pair = isinstance(window, (tuple, list)) and len(window) == 2 and all(map(number, window))
            expect(pair and window[0] < window[1], name, window, "two timesteps, low < high", "(-1, 681)")
        expect(number(self.weight) and 0 <= self.weight <= 1, "weight", self.weight, "a share 0..1", "0.5")
        for name in ("low", "high"):
            value = getattr(self, name)
            expect(number(value) and 0 < value <= 2, name, value, "a number in (0, 2]", "1.1")

    @property
    def feature_predictor(self) -> Predictor:
        """Of attention."""
        return Changed(self.weight)

    @property
    def may_reuse(self) -> bool:
        """Not where both are computed in each step."""
        return self.attention > 1 or self.guidance > 1

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """How the unconditional branch of the denoiser stands beside the conditional one, and each self-attention.

        Raises:
            SettingError: the model's row names no self-attention inside of its blocks, and it is to be reused.
        """
        kinds = [kind for kind in KINDS if kind in stack.kinds] or ["self"]
        parts = tuple(map(stack.site, stack.parts(*kinds))) if self.attention > 1 else ()
        beside = stack.site(stack.root, keeps="beside", beside="cond")
        return (beside, *parts) if self.guidance > 1 else parts or (beside,)

    def init(self) -> State:
        """No branch came by yet."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """The step's place in the interval, and its window."""
        step = observation.step
        timestep = step.training_timestep
        if timestep is None:
            return compute("timestep unknown")
        if observation.kind == "root":
            return self._beside(observation, state)
        low, high = self.attention_window
        if not low < timestep < high:
            return compute(f"outside the window (timestep {timestep:g}, {low:g} to {high:g})")
        if step.index % self.attention == 0:
            return compute(f"interval over (after {self.attention - 1} reused steps)")
        if state.guided and self.guidance > 1 and not self._skips_guidance(step):
            return compute("both branches are computed")
        return reuse(f"goes on as it changed (step {step.index % self.attention} after a computed one)")

    def refresh(self, observation: Observation, state: State) -> None:
        """Whether there is guidance, and a new difference."""
        step = observation.step
        state.guided = state.guided or step.branch == "uncond"
        if observation.kind == "root":
            state.differences[observation.denoiser, step.lane] = Difference()

    def _beside(self, observation: Observation, state: State) -> Decision:
        step = observation.step
        if not self._skips_guidance(step):
            return compute("both branches are computed")
        own = state.differences.setdefault((observation.denoiser, step.lane), Difference())
        if own.index != step.index:
            own.index = step.index
            own.low *= self.low if _within(step, self.low_window) else 1.0
            own.high *= self.high if _within(step, self.high_window) else 1.0
        said = f"beside the conditional branch (x {own.low:.3g} low, x {own.high:.3g} high)"
        return reuse(said, how=Bands(own.low, own.high))

    def _skips_guidance(self, step: Step) -> bool:
        return step.index % self.guidance != 0 and _within(step, self.guidance_window)


def _within(step: Step, window: Window) -> bool:
    timestep = step.training_timestep
    return timestep is not None and window[0] < timestep < window[1]
