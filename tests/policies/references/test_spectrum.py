"""Spectrum (2603.01623) written twice: what leaves the last block as a ridge fit of Chebyshev polynomials of the step.

Windows grow: after the warm-up the n-th computed step is floor(N) steps behind the one before, N + growth from then on.
The released code measures time in fiftieths whatever the run; here and there it is the length of the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.polynomial import chebyshev

from bwcache import Spectrum
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.toy import Array


def timetable(steps: int, window: float, growth: float, warmup: int) -> list[int]:
    computed = list(range(warmup))
    while computed[-1] + int(window) < steps:
        computed.append(computed[-1] + int(window))
        window += growth
    return computed


@dataclass
class Reference:
    steps: int
    window: float
    growth: float
    warmup: int
    degree: int
    ridge: float
    share: float

    def __post_init__(self) -> None:
        self.computed = timetable(self.steps, self.window, self.growth, self.warmup)
        self.past: dict[str, list[tuple[int, Array]]] = {branch: [] for branch in toy.BRANCHES}
        self.letters = "".join("C" if step in self.computed else "r" for step in range(self.steps))

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        if step not in self.computed:
            return toy.predicted(self._foretold(self.past[branch], step))
        left = toy.blocks(toy.embedded(latents), toy.timed(step, self.steps), branch)
        self.past[branch].append((step, left))
        return toy.predicted(left)

    def _foretold(self, past: list[tuple[int, Array]], step: int) -> Array:
        known = np.array([at for at, _ in past])
        features = np.stack([feature.ravel() for _, feature in past])
        basis = chebyshev.chebvander(2 * known / self.steps - 1, self.degree)
        fitted = np.linalg.solve(basis.T @ basis + self.ridge * np.eye(self.degree + 1), basis.T @ features)
        curve = (chebyshev.chebvander(np.array([2 * step / self.steps - 1]), self.degree) @ fitted).reshape(
            past[0][1].shape
        )
        (before, older), (last, newer) = past[-2:]
        line = newer + (step - last) / (last - before) * (newer - older)
        mixed: Array = self.share * curve + (1 - self.share) * line
        return mixed


def test_timetable_has_the_published_number_of_steps() -> None:
    assert [len(timetable(50, 2, growth, 5)) for growth in (0.75, 3.0)] == [14, 10]


SETTINGS = {"released": (50, 2.0, 0.75, 5, 4, 0.1, 1.0), "half a line": (24, 2.0, 0.5, 4, 3, 0.01, 0.5)}


@proves(Spectrum, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(
    case: tuple[int, float, float, int, int, float, float],
) -> None:
    steps, window, growth, warmup, degree, ridge, share = case
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    policy = Spectrum(window=window, growth=growth, warmup=warmup, degree=degree, ridge=ridge, share=share)
    trace, played = toy.by_policy(policy, steps)
    assert all(toy.decisions(trace, branch) == reference.letters for branch in toy.BRANCHES)
    assert toy.close(played, expected, 1e-6)
