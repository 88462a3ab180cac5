"""Block Caching (2312.03209) written twice: the table of changes, each transformer's steps, and what is added again.

The newer value divides, and a value is kept while the changes since it was computed sum up to no more than delta. Where
both branches come in one forward, what is compared is the whole batch; else each branch is a run of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from numpy.typing import NDArray
from torch import Tensor

import bwcache
from bwcache import BlockCaching
from bwcache.core import Trace
from tests.policies.proof import ANOTHER, NONE, ONE, TWO, proves
from tests.policies.references.measures import relative_l1
from tests.policies.references.opened import Compute, Streams, opened
from tests.policies.unets_in_two import TwoForwards
from tests.zoo.unets import PIPELINES

Lists = dict[str, tuple[int, ...]]
STEPS = 8


@dataclass
class Reference:
    """Computes a transformer at its steps; every one at all of them where no steps are said.

    Attributes:
        added: what each one added in each step, by name and branch.
    """

    computed: Lists | None = None
    added: dict[tuple[str, int], list[NDArray[Any]]] = field(default_factory=dict)

    def begins(self, step: int, branch: int) -> None:
        self.step, self.branch = step, branch

    def at(self, place: str, entering: Streams, compute: Compute) -> Streams:
        added = self.added.setdefault((place, self.branch), [])
        if self.computed is not None and self.step not in self.computed[place]:
            added.append(added[-1])
            return (entering[0] + added[-1],)
        left = compute()
        added.append(left[0] - entering[0])
        return left


def listed(runs: Sequence[Reference], delta: float) -> Lists:
    """The steps of each transformer, from runs that compute everything."""
    lists: Lists = {}
    for place in dict.fromkeys(place for run in runs for place, _ in run.added):
        lines = [line for run in runs for (name, _), line in run.added.items() if name == place]
        steps, since = [0], 0.0
        for step in range(1, STEPS):
            since += float(np.mean([relative_l1(line[step - 1], line[step]) for line in lines]))
            if since > delta:
                steps.append(step)
                since = 0.0
        lists[place] = tuple(steps)
    return lists


class Piped:
    """A pipeline of the zoo, whose branches come in one forward, or without guidance."""

    def __init__(self, name: str, guided: bool) -> None:
        self.case = next(case for case in PIPELINES if case.name == name)
        self.pipe = self.attached = self.case.build()
        self.unet, self.branches = self.pipe.unet, ("call0",)
        self.call: dict[str, Any] = {} if guided else {"guidance_scale": 1.0}

    def run(self, seed: int = 0, session: Any = None) -> Tensor:
        return self.case.run(self.pipe, seed, num_inference_steps=STEPS, **self.call)


class Parted:
    """A loop with a forward of its own for each branch."""

    def __init__(self, name: str) -> None:
        self.loop = TwoForwards(name, STEPS)
        self.unet = self.attached = self.loop.unet
        self.branches = ("cond", "uncond")

    def run(self, seed: int = 0, session: Any = None) -> Tensor:
        return self.loop.run(session)


def by_reference(one: Piped | Parted, reference: Reference, seed: int = 0) -> Tensor:
    places = [name for name, part in one.unet.named_modules() if isinstance(part, Transformer2DModel)]
    with opened(one.unet, reference, places, one.branches):
        return one.run(seed)


def by_policy(one: Piped | Parted, policy: Any, seed: int = 0) -> tuple[Trace, Tensor]:
    with bwcache.attach(one.attached, policy) as session:
        made = one.run(seed, session)
    return session.trace, made


def held_against(one: Piped | Parted, delta: float, seeds: Sequence[int]) -> None:
    """The policy's lists are the reference's, and so is what both make by them, bit for bit."""
    runs = [Reference() for _ in seeds]
    plain = [by_reference(one, run, seed) for run, seed in zip(runs, seeds, strict=True)]
    lists = listed(runs, delta)
    assert len(set(lists.values())) > 1
    policy = BlockCaching.fitted([by_policy(one, BlockCaching.measuring(), seed)[0] for seed in seeds], delta)
    assert dict(policy.computed) == lists
    expected = by_reference(one, Reference(lists), seeds[0])
    trace, made = by_policy(one, policy, seeds[0])
    for place, steps in lists.items():
        rows = [row for row in trace.events if row.site.endswith(f"/{place}")]
        assert len(rows) == STEPS * len(one.branches)
        assert all((row.action == "compute") == (row.step in steps) for row in rows)
    assert torch.equal(made, expected)
    assert not torch.equal(made, plain[0])


EQUAL = "table, lists, and latents bit for bit"
IN_ONE = {"UNet2DConditionModel": (ONE,), "UNetMotionModel": (ONE,), "UNet3DConditionModel": (ONE, NONE)}
IN_TWO = {"UNet2DConditionModel": (TWO,), "UNet3DConditionModel": (TWO,)}


@proves(BlockCaching, ANOTHER, EQUAL, on=IN_ONE)
@pytest.mark.parametrize(
    ("name", "guided"),
    [("stable_diffusion", True), ("animatediff", True), ("text_to_video", True), ("text_to_video", False)],
)
def test_policy_and_reference_decide_and_make_the_same(name: str, guided: bool) -> None:
    held_against(Piped(name, guided), 0.3, (0, 1) if name == "stable_diffusion" else (0,))


@proves(BlockCaching, ANOTHER, EQUAL, on=IN_TWO)
@pytest.mark.parametrize("name", IN_TWO)
def test_in_two_forwards_policy_and_reference_decide_and_make_the_same(name: str) -> None:
    held_against(Parted(name), 0.3, (0,))
