"""The laws on every denoiser class, bare: order of calls, always-compute, replay against brute force."""

from __future__ import annotations

import copy
import functools
from itertools import pairwise
from typing import Any

import pytest
import torch

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.models import BlockStack, resolve
from tests.tiny import Scripted
from tests.zoo import MODELS
from tests.zoo.kinds import Model, note_calls, put_around

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name.replace(" ", "-"))

STEPS = 6


def alike(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Bit for bit; a NaN is no result."""
    assert a
    assert all(tensor.isfinite().all() for tensor in a)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def plain(model: Model) -> list[list[torch.Tensor]]:
    module = model.build()
    return [model.run(module, i / STEPS) for i in range(STEPS)]


def snapshot(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)(snapshot(item) for item in value) if isinstance(value, (tuple, list)) else copy.copy(value)


@each_model
def test_the_row_has_the_blocks_in_the_order_of_the_forward(model: Model) -> None:
    module = model.build()
    stack = resolve("model", module)
    called: list[str] = []
    for block in stack.blocks:
        note_calls(block, called)
    model.run(module, 0.0)
    assert called == [block.name for block in stack.blocks]


@each_model
def test_time_is_read_and_moves_one_way(model: Model) -> None:
    from bwcache.engine.clock.call import scalar

    stack = resolve("model", model.build())
    times = [scalar(stack.timestep.read((), model.inputs(i / STEPS))) for i in range(STEPS)]
    assert None not in times
    rising = [b > a for a, b in pairwise(times)]  # type: ignore[operator]
    assert all(rising) or not any(rising)
    assert len(set(times)) == STEPS


@each_model
def test_always_computing_changes_nothing(model: Model) -> None:
    expected = plain(model)
    module = model.build()
    with bwcache.attach(module, bwcache.NeverReuse(measures="default"), steps=STEPS) as session:
        for i in range(STEPS):
            assert alike(model.run(module, i / STEPS), expected[i])
    assert reuse_line(session.trace.events) == "C" * STEPS
    measured = [event.indicator for event in session.trace.events if event.step > 0]
    assert all(value is not None and value > 0 for value in measured)
    after = [model.run(module, i / STEPS) for i in range(STEPS)]
    assert all(alike(a, b) for a, b in zip(after, expected, strict=True))


class Stored:
    """Brute force: records what every block returned, and gives exactly that back when told to."""

    def __init__(self, stack: BlockStack) -> None:
        self.replaying, self.ran = False, 0
        self.kept: dict[int, Any] = {}
        for i, block in enumerate(stack.blocks):
            put_around(block, functools.partial(self.around, i))

    def around(self, i: int, forward: Any) -> Any:
        def replayed(*args: Any, **kwargs: Any) -> Any:
            if self.replaying:
                return snapshot(self.kept[i])
            self.ran += 1
            returned = forward(*args, **kwargs)
            self.kept[i] = snapshot(returned)
            return returned

        return replayed


@each_model
def test_replay_is_brute_force(model: Model) -> None:
    """Reuses steps 2 and 3 of 6: the denoiser's output is as if every block had given back what it gave at step 1."""
    module = model.build()
    brute = Stored(resolve("model", module))
    expected = []
    for i in range(STEPS):
        brute.replaying = i in (2, 3)
        expected.append(model.run(module, i / STEPS))

    module = model.build()
    blocks = resolve("model", module).blocks
    ran: list[str] = []
    for block in blocks:
        note_calls(block, ran)
    with bwcache.attach(module, Scripted(frozenset({2, 3})), steps=STEPS) as session:
        made = [model.run(module, i / STEPS) for i in range(STEPS)]
    assert reuse_line(session.trace.events) == "CCrrCC"
    assert ran == [block.name for block in blocks] * (STEPS - 2)
    assert all(alike(a, b) for a, b in zip(made, expected, strict=True))
    assert not alike(made[2], plain(model)[2]), "replaying made no difference: the test shows nothing"
