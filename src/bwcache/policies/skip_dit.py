"""Skip-DiT: Towards Stabilized and Efficient Diffusion Transformers through Long-Skip-Connections.

Chen, Zhao, Zhou, Qu, Chen, Cheng; arXiv 2411.17616, ICCV 2025. For models with long skips, which the
paper trains into those that have none: block i of the first half hands its output to block L - 1 - i, L blocks.

1. In every N-th step all blocks are computed.
2. In the steps between the first block runs, and the last one, on two things: what reached it from the block before it
   at the last computed step, and by the longest skip what the first block returned now.
3. Outside of a window of timesteps all blocks are computed: N2-700-50 is N = 2 between 700 and 50.

Readings: steps are counted from the last computed one; the window is open, stop < t < start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.errors import AttachError, complaint
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import Published

PUBLISHED: Mapping[str, Published] = {
    "videos of a text": Published({"interval": 2, "start": 700.0, "stop": 50.0}),
    "videos of a class": Published({"interval": 2, "start": 900.0, "stop": 50.0}),
}
"""By what is made; intervals go up to 4."""

Computed = dict[tuple[str, str], int]
"""One run: the last computed step of each lane of each denoiser."""


@dataclass(frozen=True)
class SkipDiT(Policy[Computed]):
    """Between full steps runs the first block and the last one, which a long skip connects.

    Args:
        interval: N, steps from one full step to the next, >= 1; 2 to 4 in the paper. 1 never reuses.
        start, stop: between which timesteps, 1000..0, the later one last; 700 and 50 for video, 900 and 50 for classes.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="nothing",
        verified="plain patches, bit for bit; a second implementation in numpy",
        calibration="none, but a model that was trained with long skips",
        paper=Paper(
            title="Towards Stabilized and Efficient Diffusion Transformers through Long-Skip-Connections",
            authors="Chen, Zhao, Zhou, Qu, Chen, Cheng",
            arxiv="2411.17616",
            venue="ICCV 2025",
        ),
    )

    interval: int = 2  # N
    start: float = 700.0
    stop: float = 50.0

    def __post_init__(self) -> None:
        expect(whole(self.interval, 1), "interval", self.interval, "a whole number of steps >= 1", "2")
        for name, instead in (("start", "700"), ("stop", "50")):
            expect(number(getattr(self, name)), name, getattr(self, name), "a timestep, 0..1000", instead)
        expect(self.stop < self.start, "stop", self.stop, f"a timestep below start ({self.start:g})", "50")

    @property
    def may_reuse(self) -> bool:
        """Not with an interval of 1."""
        return self.interval > 1

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks but the first and the last one.

        Raises:
            AttachError: its row says of no long skips, or there are fewer than three blocks.
        """
        if not stack.spec.long_skips:
            found, action = f"{stack.spec.model}, whose blocks no long skips connect", "choose FixedInterval"
            raise AttachError(
                complaint(found, "a model that was trained with them, and `long_skips` in its row", action)
            )
        if len(stack.blocks) < 3:
            found = f"{len(stack.blocks)} blocks in {stack.spec.model}"
            raise AttachError(complaint(found, "at least three", "choose another policy"))
        return (stack.site(stack.blocks[1], stack.blocks[-2]),)

    def init(self) -> Computed:
        """Nothing was computed yet."""
        return {}

    def decide(self, observation: Observation, state: Computed) -> Decision:
        """The timestep against the window, and the steps since the last computed one against the interval."""
        step, timestep = observation.step, observation.step.training_timestep
        if timestep is None:
            return compute("timestep unknown")
        if not self.stop < timestep < self.start:
            return compute(f"outside the window (timestep {timestep:g}, {self.stop:g} to {self.start:g})")
        age = step.index - state[observation.denoiser, step.lane]
        if age >= self.interval:
            return compute(f"interval over (after {age - 1} reused steps)")
        return reuse(f"within the interval (step {age} after a computed one)")

    def refresh(self, observation: Observation, state: Computed) -> None:
        """Takes note of a computed step."""
        state[observation.denoiser, observation.step.lane] = observation.step.index
