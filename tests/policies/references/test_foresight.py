"""Foresight (2506.00329) written twice: a block is reused while it changes little for what it did at first.

The facts leave open what happens between two full steps to a block that is not reused: here, as in the policy, it is
computed and kept, and its change counts from then on. (Changes told at full steps alone decide otherwise in the second
setting.) The first step behind the warm-up is a full one.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bwcache import Foresight
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.toy import Array


def squared(new: Array, old: Array) -> float:
    return float(((new - old) ** 2).mean())


@dataclass
class Reference:
    steps: int
    scale: float
    reuses: int
    warmup: float

    def __post_init__(self) -> None:
        keys = [(branch, block) for branch in toy.BRANCHES for block in range(toy.BLOCKS)]
        self.kept: dict[tuple[str, int], Array] = {}
        self.limit = dict.fromkeys(keys, 0.0)
        self.change = dict.fromkeys(keys, 0.0)
        self.letters = dict.fromkeys(keys, "")
        self.start = round(self.warmup * self.steps)

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        tokens, time = toy.embedded(latents), toy.timed(step, self.steps)
        warming = step < self.start
        full = warming or (step - self.start) % (self.reuses + 1) == 0
        for block in range(toy.BLOCKS):
            key = branch, block
            if not full and self.change[key] <= self.scale * self.limit[key]:
                self.letters[key] += "r"
                tokens = self.kept[key]
                continue
            self.letters[key] += "C"
            tokens = toy.blocks(tokens, time, branch, block, block + 1)
            if warming and step > 0:
                age = self.start - 1 - step
                self.limit[key] += 10.0**-age * squared(tokens, self.kept[key]) if age < 3 else 0.0
            elif step > 0:
                self.change[key] = squared(tokens, self.kept[key])
            self.kept[key] = tokens
        return toy.predicted(tokens)


SETTINGS = {"a reuse at a time": (20, 1.0, 1, 0.15), "two reuses": (20, 0.6, 2, 0.2)}


@proves(Foresight, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(case: tuple[int, float, int, float]) -> None:
    steps, scale, reuses, warmup = case
    reference = Reference(*case)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(Foresight(scale, reuses, warmup), steps)
    sites = list(dict.fromkeys(event.site for event in trace.events))
    assert len(sites) == toy.BLOCKS
    assert any(toy.mixed(letters) for letters in reference.letters.values())
    assert len(set(reference.letters.values())) > 1
    for (branch, block), letters in reference.letters.items():
        assert toy.decisions(trace, branch, sites[block]) == letters
    assert toy.close(played, expected)
