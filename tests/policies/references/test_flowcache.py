"""FlowCache (2602.10825) written twice: each chunk has its own sum of changes, its own count and what all blocks add.

As in the authors' code for SkyReels-V2: the change is that since the step before, computed or not; the first steps and
the last one of each chunk are computed, with the sum at 0. Chunks of these pipelines come one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import bwcache
from bwcache import FlowCache, TeaCache
from tests.policies.proof import ANOTHER, BITS, NONE, TWO, proves
from tests.policies.references.measures import relative_l1
from tests.policies.references.opened import Compute, Streams, blocks_of, opened
from tests.policies.references.toy import decisions, mixed
from tests.zoo import helios, skyreels, wan

Lane = tuple[int, int]
STEPS = 12
TIME = "condition_embedder"
"""Of what it returns the second one modulates the first block."""


@dataclass
class Reference:
    """`fills`: forwards behind each chunk that are no steps. What is kept is by chunk and branch."""

    blocks: list[str]
    fills: int
    threshold: float
    warmup: int = 5
    tail: int = 1
    coefficients: tuple[float, ...] = (1.0, 0.0)
    before: dict[Lane, NDArray[Any]] = field(default_factory=dict)
    spent: dict[Lane, float] = field(default_factory=dict)
    kept: dict[Lane, NDArray[Any]] = field(default_factory=dict)
    letters: dict[Lane, str] = field(default_factory=dict)

    def begins(self, step: int, branch: int) -> None:
        chunk, self.step = divmod(step, STEPS + self.fills)
        self.lane, self.reuses = (chunk, branch), False

    def at(self, place: str, entering: Streams, compute: Compute) -> Streams:
        if place == "":
            self.seen = entering[0]
            return compute()
        if place == TIME:
            embedded = compute()
            self.seen = embedded[1]
            return embedded
        if place == self.blocks[0]:
            self.entered = entering[0]
            if self.step < STEPS:
                self.reuses = self._reuses(self.seen)
                self.letters[self.lane] = self.letters.get(self.lane, "") + ("r" if self.reuses else "C")
        last = place == self.blocks[-1]
        if self.reuses:
            return (self.entered + self.kept[self.lane],) if last else entering[:1]
        left = compute()
        if last and self.step < STEPS:
            self.kept[self.lane] = left[0] - self.entered
        return left

    def _reuses(self, feature: NDArray[Any]) -> bool:
        before = self.before.get(self.lane)
        self.before[self.lane] = feature
        if before is None or self.step < self.warmup or self.step >= STEPS - self.tail:
            self.spent[self.lane] = 0.0
            return False
        self.spent[self.lane] += float(np.polyval(self.coefficients, relative_l1(feature, before)))
        if self.spent[self.lane] < self.threshold:
            return True
        self.spent[self.lane] = 0.0
        return False


PIPES = {case.name: case for case in (*helios.PIPELINES, *skyreels.PIPELINES, *wan.SPECIAL)}
TWICE = ("cond", "uncond")
LATENTS = {"threshold": 0.3, "warmup": 3}
MODULATED = {"threshold": 0.1, "warmup": 2, "tail": 0, "coefficients": (0.5, 0.0)}
"""A name, chunks, forwards behind each chunk that fill a cache, branches, the place that is looked at, settings."""
CASES: tuple[tuple[str, int, int, tuple[str, ...], str, dict[str, Any]], ...] = (
    ("HeliosPipeline chunks", 2, 0, TWICE, "", LATENTS),
    ("AnyFlowFARPipeline chunks", 3, 1, ("call0",), "", LATENTS),
    ("SkyReelsV2DiffusionForcingPipeline", 1, 0, TWICE, "", LATENTS),
    ("SkyReelsV2DiffusionForcingPipeline", 1, 0, TWICE, TIME, MODULATED),
)
ON = {
    "HeliosTransformer3DModel": (TWO,),
    "AnyFlowFARTransformer3DModel": (NONE,),
    "SkyReelsV2Transformer3DModel": (TWO,),
}


@proves(FlowCache, ANOTHER, BITS, on=ON)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[4] or 'latents'}")
def test_policy_and_reference_decide_and_make_the_same(case: Any) -> None:
    name, chunks, fills, branches, seen, settings = case
    tiny = PIPES[name]
    pipe = tiny.build()
    blocks = blocks_of(pipe.transformer)
    reference = Reference(blocks, fills, **settings)
    with opened(pipe.transformer, reference, (seen, *blocks), branches):
        expected = tiny.run(pipe, num_inference_steps=STEPS)
    policy = FlowCache(**settings, input="modulated" if seen else "latents")
    with bwcache.attach(pipe := tiny.build(), policy) as session:
        made = tiny.run(pipe, num_inference_steps=STEPS)
    assert len(session.traces) == chunks
    for chunk, trace in enumerate(session.traces):
        for branch, called in enumerate(branches):
            assert decisions(trace, called) == reference.letters[chunk, branch]
    assert all(mixed(letters) for letters in reference.letters.values())
    assert torch.equal(made, expected)


def test_the_polynomial_is_the_one_of_what_modulates_the_blocks() -> None:
    """The authors' scripts for SkyReels-V2 take that of Wan 2.1 which goes with it, not the one for the time alone."""
    for speed in ("slow", "fast"):
        published = FlowCache.published(f"SkyReels-V2-DF-1.3B {speed}")
        assert published.coefficients == TeaCache.published("Wan2.1-T2V-1.3B").coefficients
