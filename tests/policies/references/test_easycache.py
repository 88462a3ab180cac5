"""EasyCache (2507.02860) written twice: how much the output follows the input, from the last two computed steps.

The rate looks at computed steps on both sides, the change of the input at the step before; the conditional branch
decides for both (the official code, as METHODS of the field tell it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bwcache import EasyCache
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.measures import mean_change
from tests.policies.references.toy import Array


@dataclass
class Reference:
    steps: int
    threshold: float
    warmup: int

    def __post_init__(self) -> None:
        self.before: Array | None = None
        self.computed: tuple[Array, Array] | None = None
        self.rate: float | None = None
        self.spent = 0.0
        self.difference: dict[str, Array] = {}
        self.letters = dict.fromkeys(toy.BRANCHES, "")

    def _reuses(self, latents: Array, step: int) -> bool:
        """The conditional branch's answer, which the other one follows."""
        before, self.before = self.before, latents
        if step < self.warmup or step == self.steps - 1:
            self.spent = 0.0
            return False
        if before is None or self.computed is None or self.rate is None:
            return False
        self.spent += self.rate * mean_change(latents, before) / float(np.abs(self.computed[1]).mean())
        if self.spent < self.threshold:
            return True
        self.spent = 0.0
        return False

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        reuses = self._reuses(latents, step) if branch == "cond" else self.letters["cond"][-1] == "r"
        self.letters[branch] += "r" if reuses else "C"
        if reuses:
            return latents + self.difference[branch]
        output = toy.denoised(latents, step, self.steps, branch)
        self.difference[branch] = output - latents
        if branch == "cond":
            if self.computed is not None:
                self.rate = mean_change(output, self.computed[1]) / mean_change(latents, self.computed[0])
            self.computed = latents, output
        return output


@proves(EasyCache, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", [(16, 0.6, 2), (20, 0.4, 5)], ids=["short warm-up", "long warm-up"])
def test_policy_and_reference_decide_and_make_the_same(case: tuple[int, float, int]) -> None:
    steps, threshold, warmup = case
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(EasyCache(threshold, warmup), steps)
    for branch in toy.BRANCHES:
        assert toy.mixed(reference.letters[branch])
        assert toy.decisions(trace, branch) == reference.letters[branch]
    assert toy.close(played, expected)
