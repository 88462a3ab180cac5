"""PAB: Real-Time Video Generation with Pyramid Attention Broadcast.

Zhao, Jin, Wang, You; arXiv 2408.12588, ICLR 2025. Training-free. Symbols of the paper: alpha, beta, gamma the broadcast
ranges of spatial, temporal and cross attention.

1. What attention returns changes in a U over the run: much at both ends, little in between. Of the three kinds cross
   attention changes least and spatial attention most (Sec. 3.2): the pyramid.
2. Inside a window of timesteps each attention is computed in every alpha-th (beta-th, gamma-th) step, and its output,
   before the gate, is broadcast to the steps between (Sec. 3.3). Outside it is computed in every step.

Readings: steps count from the start of the run, so with a range of n the steps whose index is a multiple of n compute;
the window is open, low < t < high, t from 1000 down to 0 whatever a scheduler counts. Attention over space and time in
one (Wan, LTX-Video) and over text and picture in one (CogVideoX, HunyuanVideo) counts as spatial, as in diffusers.

Deviations: feed-forward nets are not broadcast (the paper does so in five blocks of Open-Sora and Latte alone), and
nothing is said of how a sequence is split over devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bwcache.core import Decision, compute, reuse
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import CODE, Published


def _window(low: float, high: float) -> dict[str, Any]:
    return dict.fromkeys(("spatial_window", "temporal_window", "cross_window"), (low, high))


FEEDS_FORWARD = f"{CODE}, which broadcasts some feed-forward nets too"

PUBLISHED: Mapping[str, Published] = {
    "Open-Sora-1.2": Published({"spatial": 2, "temporal": 4, "cross": 6, **_window(450, 930)}, FEEDS_FORWARD),
    "Latte": Published({"spatial": 2, "temporal": 3, "cross": 6, **_window(100, 800)}, FEEDS_FORWARD),
    "Open-Sora-Plan-1.1": Published({"spatial": 2, "temporal": 4, "cross": 6, **_window(100, 850)}),
    "CogVideoX": Published({"spatial": 2, **_window(100, 850)}),
    "Vchitect-2": Published({"spatial": 2, "temporal": 4, "cross": 6, **_window(100, 800)}),
}
"""By model."""

Window = tuple[float, float]

KINDS = ("self", "joint", "temporal", "cross")
"""The kinds of parts that are attention, in no order of importance; the first two count as spatial."""


@dataclass(frozen=True)
class PyramidAttentionBroadcast(Policy[None]):
    """Computes each kind of attention in every so many steps, cross attention most rarely, and broadcasts its output.

    Args:
        spatial, temporal, cross: alpha, beta, gamma: this kind is computed in every so many steps, >= 1; 1 in each.
        spatial_window, temporal_window, cross_window: between which timesteps, 0..1000, the lower one first. 100 to 800
            in diffusers and for Vchitect; 450 to 930 for Open-Sora, 100 to 850 for CogVideoX and Open-Sora-Plan.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1 for each attention",
        reads="nothing",
        verified="diffusers' hooks, bit for bit",
        paper=Paper(
            title="Real-Time Video Generation with Pyramid Attention Broadcast",
            authors="Zhao, Jin, Wang, You",
            arxiv="2408.12588",
            venue="ICLR 2025",
        ),
    )

    spatial: int = 2  # alpha
    temporal: int = 4  # beta
    cross: int = 6  # gamma
    spatial_window: Window = (100, 800)
    temporal_window: Window = (100, 800)
    cross_window: Window = (100, 800)

    def __post_init__(self) -> None:
        for name in ("spatial", "temporal", "cross"):
            every, window = getattr(self, name), getattr(self, f"{name}_window")
            expect(whole(every, 1), name, every, "a whole number of steps >= 1", "2")
            pair = isinstance(window, (tuple, list)) and len(window) == 2 and all(map(number, window))
            expect(pair and window[0] < window[1], f"{name}_window", window, "two timesteps, low < high", "(100, 800)")

    @property
    def may_reuse(self) -> bool:
        """Not where each range is 1."""
        return max(self.spatial, self.temporal, self.cross) > 1

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Every attention of every block, each for itself.

        Raises:
            SettingError: the model's row names no attention inside of its blocks.
        """
        there = {place.kind for place in stack.parts()}
        kinds = [kind for kind in KINDS if kind in there] or ["self"]
        return tuple(stack.site(part) for part in stack.parts(*kinds))

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """The timestep against the window, and the index against the range."""
        kind = observation.kind if observation.kind in ("temporal", "cross") else "spatial"
        every, (low, high) = getattr(self, kind), getattr(self, f"{kind}_window")
        timestep, index = observation.step.training_timestep, observation.step.index
        if timestep is None:
            return compute("timestep unknown")
        if not low < timestep < high:
            return compute(f"outside the window (timestep {timestep:g}, {low:g} to {high:g})")
        if index % every == 0:
            return compute(f"broadcast over (every {every} steps)")
        return reuse(f"broadcast (step {index % every} of {every})")
