"""SpeCa (2509.11628) written twice: a Taylor draft of every layer, or of all as one (`lite`), which the last block
checks, and of which the next step hears.

The facts leave open whether what a checked step returns is the draft or what the check computed: here the latter. In
the first `warmup` steps no two drafts follow each other, as the official run begins (full, draft, full, draft, …).
The error is the policy's reading, relative L1 of the whole feature, where the released code takes the mean of the
entries' relative errors; progress is that of the step which the check decides about, 1 in the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import factorial
from typing import TypeAlias

import numpy as np
import pytest

from bwcache import SpeCa
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.measures import relative_l1
from tests.policies.references.toy import Array

Layer: TypeAlias = Callable[[Array, Array, str, int], Array]
"""Tokens, the time's embedding, branch and block to what the layer adds."""


@dataclass
class Series:
    """Differences of what one site returned at full steps, each over the gap of the time when it was formed."""

    order: int
    step: int = 0
    differences: list[Array] = field(default_factory=list)

    def learn(self, feature: Array, step: int) -> None:
        learned = [feature]
        for older in self.differences[: self.order]:
            learned.append((learned[-1] - older) / (step - self.step))
        self.step, self.differences = step, learned

    def foretold(self, step: int) -> Array:
        ahead = step - self.step
        terms = [difference * ahead**i / factorial(i) for i, difference in enumerate(self.differences)]
        return np.sum(terms, axis=0)


LAYERS: list[tuple[int, Layer]] = [
    (block, layer)
    for block in range(toy.BLOCKS - 1)
    for layer in (
        lambda tokens, time, branch, block: toy.attention(toy.modulated(tokens, time, block), block),
        lambda tokens, time, branch, block: toy.cross(tokens, toy.TEXT[branch], block),
        lambda tokens, time, branch, block: toy.feed_forward(tokens, block),
    )
]
"""What is added to the tokens before the last block, in order."""


@dataclass
class Lane:
    """A branch: the series of all that is drafted, how many drafts since a full step, whether the last check failed."""

    layers: list[Series]
    leaving: Series
    drafts: int = 0
    failed: bool = False
    letters: str = ""


@dataclass
class Reference:
    steps: int
    threshold: float
    decay: float
    floor: float
    unchecked: int
    longest: int
    order: int
    warmup: int
    lite: bool

    def __post_init__(self) -> None:
        count = 1 if self.lite else len(LAYERS)
        self.lanes = {
            branch: Lane([Series(self.order) for _ in range(count)], Series(self.order)) for branch in toy.BRANCHES
        }

    def _is_full(self, lane: Lane, step: int) -> bool:
        longest = 1 if step < self.warmup else self.longest
        return step == 0 or lane.failed or lane.drafts >= longest

    def _learn(self, lane: Lane, tokens: Array, time: Array, step: int, branch: str) -> Array:
        """What enters the last block, computed; what all layers before it returned is kept."""
        if self.lite:
            tokens = toy.blocks(tokens, time, branch, last=toy.BLOCKS - 1)
            lane.layers[0].learn(tokens, step)
            return tokens
        for (block, layer), series in zip(LAYERS, lane.layers, strict=True):
            added = layer(tokens, time, branch, block)
            series.learn(added, step)
            tokens = tokens + added
        return tokens

    def _drafted(self, lane: Lane, tokens: Array, step: int) -> Array:
        """What enters the last block, by the forecasts."""
        foretold = [series.foretold(step) for series in lane.layers]
        return foretold[0] if self.lite else tokens + np.sum(foretold, axis=0)

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        lane, time, last = self.lanes[branch], toy.timed(step, self.steps), toy.BLOCKS - 1
        if self._is_full(lane, step):
            lane.drafts, lane.failed = 0, False
            lane.letters += "C"
            entering = self._learn(lane, toy.embedded(latents), time, step, branch)
            leaving = toy.blocks(entering, time, branch, first=last)
            lane.leaving.learn(leaving, step)
            return toy.predicted(leaving)
        lane.drafts += 1
        draft = lane.leaving.foretold(step)
        if lane.drafts <= self.unchecked:
            lane.letters += "r"
            return toy.predicted(draft)
        lane.letters += "v"
        real = toy.blocks(self._drafted(lane, toy.embedded(latents), step), time, branch, first=last)
        allowed = self.threshold * self.decay ** ((step + 2) / self.steps)
        lane.failed = relative_l1(draft, real) > max(allowed, self.floor)
        return toy.predicted(real)


SETTINGS = {"first order": (20, 0.5, 0.5, 0.01, 1, 5, 1, 3), "second order": (24, 0.33, 0.9, 0.1, 2, 6, 2, 4)}


@proves(SpeCa, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("lite", [True, False], ids=["as one", "by layer"])
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(
    case: tuple[int, float, float, float, int, int, int, int], lite: bool
) -> None:
    steps = case[0]
    reference = Reference(*case, lite=lite)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(SpeCa(*case[1:], lite=lite), steps)
    *drafts, check = dict.fromkeys(event.site for event in trace.events)
    assert len(drafts) == (1 if lite else len(LAYERS))
    for branch in toy.BRANCHES:
        letters = reference.lanes[branch].letters
        assert {"C", "r", "v"} == set(letters)
        assert toy.decisions(trace, branch, check) == letters
        for draft in drafts:
            assert toy.decisions(trace, branch, draft) == letters.replace("v", "r")
    assert toy.close(played, expected, 1e-6)
