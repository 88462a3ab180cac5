"""AdaCache (2411.02397) written twice: the change of one block's attention per step looks up when to compute next.

The block is the one before the middle (13 of 28 as published, counted from 0). A reused step replays what every block
adds, which is the residual of the whole stack. With MoReg the motion between latent frames scales the change in the
10th to the 90th of 100 steps; outside of these, and before the first comparison, it counts as 1, as the older one of
its gradient too (the authors' code). Motion is told of what the denoiser returns, as the policy says that it deviates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bwcache import AdaCache
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.measures import relative_l1
from tests.policies.references.toy import Array


def motion(output: Array) -> float:
    """Change from each latent frame to the next, as a share of both, normalised around 1."""
    later, sooner = output[:, :, 1:], output[:, :, :-1]
    share = np.abs(later - sooner).sum() / (np.abs(later).sum() + np.abs(sooner).sum())
    return float((share / 0.385) ** 8)


@dataclass
class Lane:
    feature: Array | None = None
    residual: Array | None = None
    rate: int = 1
    due: int = 0
    motion: float = 1.0
    letters: str = ""


@dataclass
class Reference:
    steps: int
    thresholds: tuple[float, ...]
    rates: tuple[int, ...]
    moreg: bool
    block: int = toy.BLOCKS // 2 - 1

    def __post_init__(self) -> None:
        self.lanes = {branch: Lane() for branch in toy.BRANCHES}

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        lane, tokens, time = self.lanes[branch], toy.embedded(latents), toy.timed(step, self.steps)
        if 0 < step < min(lane.due, self.steps - 2) and lane.residual is not None:
            lane.letters += "r"
            return toy.predicted(tokens + lane.residual)
        lane.letters += "C"
        entered = toy.blocks(tokens, time, branch, last=self.block)
        feature = toy.attention(toy.modulated(entered, time, self.block), self.block)
        left = toy.blocks(entered, time, branch, first=self.block)
        lane.residual, output = left - tokens, toy.predicted(left)
        if lane.feature is not None:
            lane.rate = self._rate(lane, feature, output, step)
        lane.feature, lane.due = feature, step + lane.rate
        return output

    def _rate(self, lane: Lane, feature: Array, output: Array, step: int) -> int:
        assert lane.feature is not None
        change = relative_l1(feature, lane.feature) / lane.rate
        if self.moreg:
            within = 0.1 * self.steps <= step + 1 <= 0.9 * self.steps
            moved = motion(output) if within else 1.0
            gradient = 10 * (moved - lane.motion) / lane.rate
            lane.motion = moved
            change *= moved + abs(gradient)
        for threshold, rate in zip(self.thresholds, self.rates, strict=False):
            if change < threshold:
                return rate
        return self.rates[-1]


SETTINGS = {
    "the paper's codebook": (20, (0.08, 0.16, 0.24, 0.32, 0.4), (6, 5, 4, 3, 2, 1), False),
    "another one": (20, (0.1, 0.2), (4, 3, 1), False),
    "with motion": (20, (0.6, 1.5, 4.0), (5, 4, 2, 1), True),
    "with motion, another codebook": (30, (0.3, 1.0, 3.0), (4, 3, 2, 1), True),
}


@proves(AdaCache, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(
    case: tuple[int, tuple[float, ...], tuple[int, ...], bool],
) -> None:
    steps, thresholds, rates, moreg = case
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(AdaCache(thresholds, rates, moreg), steps)
    for branch in toy.BRANCHES:
        assert toy.mixed(reference.lanes[branch].letters)
        assert toy.decisions(trace, branch) == reference.lanes[branch].letters
    assert toy.close(played, expected)
