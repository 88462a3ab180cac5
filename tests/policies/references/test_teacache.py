"""TeaCache (2411.19108) written twice: a polynomial of the change since the previous step, summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pytest

from bwcache import TeaCache
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.measures import relative_l1
from tests.policies.references.toy import Array


@dataclass
class Reference:
    """State by branch: the last step's input, the sum, the residual of the whole stack."""

    steps: int
    threshold: float
    coefficients: Sequence[float]
    reads: str
    warmup: int
    tail: int

    def __post_init__(self) -> None:
        self.seen: dict[str, Array] = {}
        self.spent = dict.fromkeys(toy.BRANCHES, 0.0)
        self.residual: dict[str, Array] = {}
        self.letters = dict.fromkeys(toy.BRANCHES, "")

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        tokens, time = toy.embedded(latents), toy.timed(step, self.steps)
        read = time if self.reads == "time" else toy.modulated(tokens, time, 0)
        past = self.seen.get(branch)
        self.seen[branch] = read  # at every step, computed or not
        forced = step < self.warmup or step >= self.steps - self.tail
        if forced or past is None:
            self.spent[branch] = 0.0
        else:
            self.spent[branch] += float(np.polyval(self.coefficients, relative_l1(read, past)))
            forced = self.spent[branch] >= self.threshold
        if not forced:
            self.letters[branch] += "r"
            return toy.predicted(tokens + self.residual[branch])
        self.spent[branch] = 0.0
        self.letters[branch] += "C"
        left = toy.blocks(tokens, time, branch)
        self.residual[branch] = left - tokens
        return toy.predicted(left)


Case: TypeAlias = "tuple[int, float, tuple[float, ...], Literal['modulated', 'time'], int, int]"

SETTINGS: dict[str, Case] = {
    "by what the first block is modulated to": (16, 0.35, (1.0, 0.0), "modulated", 1, 1),
    "by the time, a fitted curve that dips below 0": (20, 0.3, (8.0, 1.0, -0.15), "time", 3, 0),
}


@proves(TeaCache, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(case: Case) -> None:
    steps, threshold, coefficients, reads, warmup, tail = case
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(TeaCache(threshold, coefficients, reads, warmup, tail), steps)
    for branch in toy.BRANCHES:
        assert toy.mixed(reference.letters[branch])
        assert toy.decisions(trace, branch) == reference.letters[branch]
    assert toy.close(played, expected)
