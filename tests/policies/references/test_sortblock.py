"""Sortblock (2508.00412) written twice: the blocks whose residual is least like its forecast are computed off cycle.

The share is that of the step behind a full one, which still goes by the list before; from then on the new one holds.
The official code asks for the likeness in that step too, where blocks on the list keep a forecast of the cycle before;
the facts call that a quirk. Here, as in the policy, a full step's residual is laid beside its own forecast of one step
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from bwcache import Sortblock
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.toy import Array

FIRST = toy.WIDTH // 8
"""Channels of which the likeness is told."""


@dataclass
class Block:
    """One block in one branch: its residuals at the last two computed steps, whether it is on the list."""

    past: tuple[tuple[int, Array], ...] = ()
    listed: bool = False
    alike: float = 0.0
    letters: str = ""

    def foretold(self, step: int) -> Array:
        last, newer = self.past[-1]
        if len(self.past) < 2:
            return newer
        before, older = self.past[0]
        line: Array = newer + (newer - older) * (step - last) / (last - before)
        return line

    def likeness(self) -> float:
        last, newer = self.past[-1]
        now, then = newer[..., :FIRST], self.foretold(last + 1)[..., :FIRST]
        sizes = np.linalg.norm(now, axis=-1) * np.linalg.norm(then, axis=-1)
        return float(((now * then).sum(-1) / sizes).mean())


@dataclass
class Reference:
    steps: int
    interval: int
    beta: float
    start: float
    stop: float
    coefficients: Sequence[float]

    def __post_init__(self) -> None:
        self.blocks = {branch: [Block() for _ in range(toy.BLOCKS)] for branch in toy.BRANCHES}
        self.inside = [self.stop <= 1000 * toy.sigma(step, self.steps) <= self.start for step in range(self.steps)]

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        blocks, tokens, time = self.blocks[branch], toy.embedded(latents), toy.timed(step, self.steps)
        cycle = sum(self.inside[:step]) % self.interval if self.inside[step] else 0
        for i, block in enumerate(blocks):
            if cycle and not block.listed:
                block.letters += "r"
                tokens = tokens + block.foretold(step)
                continue
            block.letters += "C"
            left = toy.blocks(tokens, time, branch, i, i + 1)
            block.past = (*block.past[-1:], (step, left - tokens))
            block.alike = block.likeness() if cycle == 0 else block.alike
            tokens = left
        if cycle == 1:
            self._list(blocks, step)
        return toy.predicted(tokens)

    def _list(self, blocks: list[Block], step: int) -> None:
        share = self.beta * float(np.polyval(self.coefficients, 1000 * toy.sigma(step, self.steps)))
        limit = sorted(block.alike for block in blocks)[min(max(int(share * len(blocks)), 0), len(blocks) - 1)]
        for block in blocks:
            block.listed = block.alike <= limit


HUNYUAN = (8.43677e-14, -2.23758e-10, 2.17396e-7, -9.14454e-5, 0.01364, 0.33195)

SETTINGS = {
    "the published curve": (20, 4, 1.0, 965.0, 50.0, HUNYUAN),
    "a share that falls with time": (24, 5, 0.5, 900.0, 150.0, (1e-3, 0.1)),
}


@proves(Sortblock, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(
    case: tuple[int, int, float, float, float, tuple[float, ...]],
) -> None:
    steps = case[0]
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(Sortblock(*case[1:]), steps)
    sites = list(dict.fromkeys(event.site for event in trace.events))
    assert len(sites) == toy.BLOCKS
    for branch, blocks in reference.blocks.items():
        assert len({block.letters for block in blocks}) > 1
        assert any(toy.mixed(block.letters) for block in blocks)
        for site, block in zip(sites, blocks, strict=True):
            assert toy.decisions(trace, branch, site) == block.letters
    assert toy.close(played, expected, 1e-6)
