"""DiCache (2508.17356) written twice: the first blocks probe each step, and say how far along two residuals to go.

The paper retains "the first R of the steps"; the released code for FLUX compares the step with `<=`, so it is the one
after them too. Here as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bwcache import DiCache
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.measures import mean_change, relative_l1
from tests.policies.references.toy import Array


@dataclass
class Lane:
    """What one branch keeps: (probe's residual, stack's residual) of the last two computed steps among it."""

    probed: Array | None = None
    spent: float = 0.0
    past: tuple[tuple[Array, Array], ...] = ()
    letters: str = ""


@dataclass
class Reference:
    steps: int
    threshold: float
    probe: int
    most: float
    retention: float

    def __post_init__(self) -> None:
        self.lanes = {branch: Lane() for branch in toy.BRANCHES}

    def _forced(self, step: int) -> bool:
        return step <= int(self.retention * self.steps) or step == self.steps - 1

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        lane, tokens, time = self.lanes[branch], toy.embedded(latents), toy.timed(step, self.steps)
        probed = toy.blocks(tokens, time, branch, last=self.probe)
        before, lane.probed = lane.probed, probed
        computes = self._forced(step) or before is None
        if before is not None and not computes:
            lane.spent += relative_l1(probed, before)
            computes = lane.spent >= self.threshold
        if not computes:
            lane.letters += "r"
            return toy.predicted(tokens + self._along(lane, probed - tokens))
        lane.spent = 0.0
        lane.letters += "C"
        left = toy.blocks(probed, time, branch, first=self.probe)
        lane.past = (*lane.past[-1:], (probed - tokens, left - tokens))
        return toy.predicted(left)

    def _along(self, lane: Lane, probe: Array) -> Array:
        if len(lane.past) < 2:
            return lane.past[-1][1]
        (older_probe, older), (newer_probe, newer) = lane.past
        share = mean_change(probe, older_probe) / mean_change(newer_probe, older_probe)
        return older + float(np.clip(share, 1.0, self.most)) * (newer - older)


SETTINGS = {"the paper's": (15, 0.35, 1, 1.5, 0.2), "a deep probe from the first step on": (16, 0.8, 2, 2.0, 0.0)}


@proves(DiCache, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(case: tuple[int, float, int, float, float]) -> None:
    steps, threshold, probe, most, retention = case
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(DiCache(threshold, probe, most, retention), steps)
    for branch in toy.BRANCHES:
        assert toy.mixed(reference.lanes[branch].letters)
        assert toy.decisions(trace, branch) == reference.lanes[branch].letters
    assert toy.close(played, expected, 1e-5)  # the share along is read in float32, and the video carries it on
