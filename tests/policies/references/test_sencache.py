"""SenCache (2602.24208) written twice: how far input and time have moved, times how sensitive the output is to them.

As the released code for Wan has it: the sensitivity is read at the last computed step, the first branch decides for
both, what all blocks added is replayed, and the last step is computed. Norms are root mean squares, as the policy's
units say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bwcache import SenCache
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.toy import Array

Table = tuple[tuple[float, float, float], ...]


def table(steps: int) -> Table:
    """A sensitivity to latents and to time for every timestep of a run, neither of them even."""
    return tuple(
        (1000 * toy.sigma(i, steps), 1 + 0.3 * float(np.sin(i)), 1e-3 + 5e-4 * float(np.cos(2 * i)))
        for i in range(steps)
    )


@dataclass
class Reference:
    steps: int
    threshold: float
    early: float
    longest: int

    def __post_init__(self) -> None:
        self.table = table(self.steps)
        self.computed: tuple[int, Array] | None = None
        self.residual: dict[str, Array] = {}
        self.letters = dict.fromkeys(toy.BRANCHES, "")

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        tokens, time = toy.embedded(latents), toy.timed(step, self.steps)
        reuses = self._reuses(latents, step) if branch == "cond" else self.letters["cond"][-1] == "r"
        self.letters[branch] += "r" if reuses else "C"
        if reuses:
            return toy.predicted(tokens + self.residual[branch])
        left = toy.blocks(tokens, time, branch)
        self.residual[branch] = left - tokens
        if branch == "cond":
            self.computed = step, latents
        return toy.predicted(left)

    def _reuses(self, latents: Array, step: int) -> bool:
        if self.computed is None or step == self.steps - 1:
            return False
        before, entered = self.computed
        at, to_latents, to_time = self.table[before]
        moved = to_latents * float(np.sqrt(((latents - entered) ** 2).mean()))
        moved += to_time * abs(self.table[step][0] - at)
        allowed = self.early if step < 0.2 * self.steps else self.threshold
        return moved < allowed and step - before <= self.longest


@proves(SenCache, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", [(20, 0.9, 0.4, 3), (15, 0.6, 0.6, 2)], ids=["strict at first", "alike"])
def test_policy_and_reference_decide_and_make_the_same(case: tuple[int, float, float, int]) -> None:
    steps, threshold, early, longest = case
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(SenCache(table(steps), threshold, early, longest), steps)
    for branch in toy.BRANCHES:
        assert toy.mixed(reference.letters[branch])
        assert toy.decisions(trace, branch) == reference.letters[branch]
    assert toy.close(played, expected)
