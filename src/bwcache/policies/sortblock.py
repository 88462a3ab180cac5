"""SortBlock: Similarity-Aware Feature Reuse for Diffusion Model.

Chen, Zhang, Guan, Jiang, Wang, Chen, Liu; arXiv 2508.00412, AAAI 2026. Training-free, calibrated. Symbols of the paper:
r[i] what block i adds to its streams, K the interval, beta the scale of rho, the share of blocks that are computed.

1. Within a window of timesteps, in every K-th step from its first one on all blocks are computed.
2. What a block adds is forecast from the last two times that it ran: r + k * (r - r') / gap, k steps later.
3. In the step after, r[i] is laid beside its forecast of one step on: the cosine of the first eighth of the channels,
   mean over the tokens. The blocks are sorted by it, and the least alike are put on the list: rho = beta * f(t) of
   them, f a polynomial of degree 5 in the timestep t that was fitted beforehand.
4. From then on, until the next list, blocks on the list are computed, and the others add their forecast.
5. Outside of the window all blocks are computed.

Each list of blocks of a model (double and single ones) is sorted by itself, and each guidance branch.

Readings: the gap is that between the two times at which this block ran, and a block that was on the list is compared by
its own last two features. (The released code takes the gap of the full steps for both, and for those on the list an
outdated forecast.) It counts forwards, where here steps are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bwcache.core import Decision, compute, reuse
from bwcache.features import ChannelShare, ForecastCosine, Predictor
from bwcache.features.differences import Differences
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.dbprune import added_by
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import CODE, Published

PUBLISHED: Mapping[str, Published] = {
    "FLUX.1-dev": Published(
        {
            "interval": 5,
            "beta": 0.1,
            "start": 900.0,
            "coefficients": (5.67621e-14, -1.36659e-10, 1.16246e-7, -3.97725e-5, 0.00361, 0.56088),
        }
    ),
    "HunyuanVideo": Published(
        {
            "interval": 5,
            "beta": 0.1,
            "start": 965.0,
            "coefficients": (8.43677e-14, -2.23758e-10, 2.17396e-7, -9.14454e-5, 0.01364, 0.33195),
        }
    ),
    "Wan2.1": Published(
        {"coefficients": (-1.74367e-15, 1.20871e-11, -2.11429e-8, 1.49777e-5, -0.00453, 0.4971)},
        f"{CODE}, whose K of 1 reuses nothing",
    ),
}
"""By model: the settings of the authors' scripts."""

SHARE = 1 / 8
"""Of the channels, by which a block and its forecast are compared."""


@dataclass
class Lane:
    """One lane of one denoiser: the window's first step, the list, and what is known of each block.

    Attributes:
        opened: the step.
        listed: the blocks that are computed.
        to_sort: step and timestep of a step after a full one, whose list is not made yet.
        alike: the cosine of each block at the last full step; None: nothing to compare with.
        computed: the step in which each block last ran.
    """

    opened: int | None = None
    listed: frozenset[str] = frozenset()
    to_sort: tuple[int, float] | None = None
    alike: dict[str, float | None] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)


Lanes = dict[tuple[str, str], Lane]


@dataclass(frozen=True)
class Sortblock(Policy[Lanes]):
    """Between full steps computes the blocks whose residuals are least like their forecasts, and forecasts the others.

    Args:
        interval: K, steps from one full step to the next, >= 1; 4 to 9 in the paper. 1 never reuses.
        beta: scale of the share that is computed, >= 0.
        start, stop: between which timesteps, 1000..0, the later one last, both included.
        coefficients: f, highest power first; HunyuanVideo's by default. `PUBLISHED` has those of others.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2 for each block",
        reads="what every block adds, once per step with a computed block",
        verified="two implementations in numpy",
        calibration="the polynomial of the model; three are published",
        paper=Paper(
            title="SortBlock: Similarity-Aware Feature Reuse for Diffusion Model",
            authors="Chen, Zhang, Guan, Jiang, Wang, Chen, Liu",
            arxiv="2508.00412",
            venue="AAAI 2026",
        ),
    )

    interval: int = 5  # K
    beta: float = 0.1
    start: float = 965.0
    stop: float = 50.0
    coefficients: tuple[float, ...] = (8.43677e-14, -2.23758e-10, 2.17396e-7, -9.14454e-5, 0.01364, 0.33195)

    def __post_init__(self) -> None:
        expect(whole(self.interval, 1), "interval", self.interval, "a whole number of steps >= 1", "5")
        expect(number(self.beta) and self.beta >= 0, "beta", self.beta, "a number >= 0", "0.1")
        for name, instead in (("start", "965"), ("stop", "50")):
            expect(number(getattr(self, name)), name, getattr(self, name), "a timestep, 0..1000", instead)
        expect(self.stop < self.start, "stop", self.stop, f"a timestep below start ({self.start:g})", "50")
        fine = isinstance(self.coefficients, (tuple, list)) and all(map(number, self.coefficients))
        expect(fine, "coefficients", self.coefficients, "numbers, highest power first", "those of PUBLISHED")
        object.__setattr__(self, "coefficients", tuple(map(float, self.coefficients)))

    @property
    def feature_predictor(self) -> Predictor:
        """Rule 2."""
        return Differences(1)

    @property
    def may_reuse(self) -> bool:
        """Not with an interval of 1."""
        return self.interval > 1

    @property
    def gaps(self) -> tuple[int, ...]:
        """How many steps may lie between the last two times that a block ran, as of a full step."""
        return tuple(sorted({1, max(self.interval - 1, 1), self.interval}))

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """What each block adds to its streams."""
        return tuple(added_by(stack, block) for block in stack.blocks)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """What each block adds, beside its forecast; one for each gap."""
        if not self.may_reuse:
            return ()
        how: dict[str, Any] = {"end": "residual", "view": ChannelShare(SHARE)}
        return tuple(
            stack.tap(block, indicator=ForecastCosine(gap), **how) for block in stack.blocks for gap in self.gaps
        )

    def init(self) -> Lanes:
        """No window is open."""
        return {}

    def decide(self, observation: Observation, state: Lanes) -> Decision:
        """The place in the interval, and the list."""
        step, site = observation.step, observation.site
        lane, timestep = state[observation.denoiser, step.lane], step.training_timestep
        if timestep is None:
            return compute("timestep unknown")
        if not self._is_open(timestep):
            return compute(f"outside the window (timestep {timestep:g}, {self.stop:g} to {self.start:g})")
        place = self._place(lane, step.index, timestep)
        if place == 0:
            return compute(f"all blocks are computed (every {self.interval} steps)")
        if site in lane.listed:
            return compute("among the least alike blocks", lane.alike.get(site))
        return reuse(f"forecast (step {step.index - lane.computed[site]} after a computed one)")

    def refresh(self, observation: Observation, state: Lanes) -> None:
        """A block ran; in a full step, how alike it and its forecast are."""
        step, site, last = observation.step, observation.site, observation.last
        lane = state.setdefault((observation.denoiser, step.lane), Lane())
        gap = step.index - lane.computed.get(site, step.index)
        lane.computed[site], timestep = step.index, step.training_timestep
        if timestep is None or not self._is_open(timestep):
            return
        if self._place(lane, step.index, timestep) == 0:
            known = last is not None and gap in self.gaps
            lane.alike[site] = last[last.places.index(site) + self.gaps.index(gap)] if known and last else None

    def _is_open(self, timestep: float) -> bool:
        return self.stop <= timestep <= self.start

    def _place(self, lane: Lane, index: int, timestep: float) -> int:
        """Where in the interval a step stands, 0 a full one; a list that is due is made."""
        lane.opened = index if lane.opened is None else lane.opened
        place = (index - lane.opened) % self.interval
        if lane.to_sort is not None and index > lane.to_sort[0]:
            lane.listed, lane.to_sort = self._sorted(lane, lane.to_sort[1]), None
        if place == 1 and lane.to_sort is None:
            lane.to_sort = (index, timestep)
        return place

    def _sorted(self, lane: Lane, timestep: float) -> frozenset[str]:
        """The least alike blocks of each list of blocks."""
        share = 0.0
        for coefficient in self.coefficients:
            share = share * timestep + coefficient
        groups: dict[str, dict[str, float]] = {}
        for site, alike in lane.alike.items():
            groups.setdefault(site.rpartition(".")[0], {})[site] = -1.0 if alike is None else alike
        found: set[str] = set()
        for own in groups.values():
            place = min(max(int(len(own) * self.beta * share), 0), len(own) - 1)
            most = sorted(own.values())[place]
            found |= {site for site, alike in own.items() if alike <= most}
        return frozenset(found)
