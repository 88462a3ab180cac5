"""Where sound is made along with the picture, both streams are measured, and the larger change is the indicator."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from torch import Tensor

import bwcache
from bwcache.models import resolve
from tests.zoo import MODELS
from tests.zoo.kinds import Model

STEPS = 3
NAMES = ("LTX2VideoTransformer3DModel", "Kandinsky6Transformer3DModel")


def model_of(name: str) -> Model:
    return next(model for model in MODELS if model.name == name)


def means(model: Model) -> list[dict[str, float]]:
    """Of each forward after the first, for each stream: the mean over the blocks of its change, relative to before."""
    module = model.build()
    stack = resolve("model", module)
    seen: list[list[dict[str, Tensor]]] = []
    for block in stack.blocks:

        def note(part: Any, args: Any, output: Any, block: Any = block) -> None:
            seen[-1].append({name: value.double() for name, value in block.outputs(output).items()})

        block.module.register_forward_hook(note)
    for i in range(STEPS):
        seen.append([])
        model.run(module, i / STEPS)
    found = []
    for older, newer in itertools.pairwise(seen):
        changes: dict[str, list[float]] = {name: [] for name in stack.spec.read_after}
        for old, new in zip(older, newer, strict=True):
            for name, values in changes.items():
                values.append(float((new[name] - old[name]).abs().sum() / old[name].abs().sum()))
        found.append({name: sum(values) / len(values) for name, values in changes.items()})
    return found


@pytest.mark.filterwarnings("ignore:nothing was reused")
@pytest.mark.parametrize("name", NAMES)
def test_the_larger_change_of_the_two_is_the_indicator(name: str) -> None:
    model = model_of(name)
    expected = means(model)
    module = model.build()
    strict = bwcache.BWCache(threshold=1e-9, sample=1)
    with bwcache.attach(module, strict, steps=STEPS, per_sample=False) as session:
        for i in range(STEPS):
            model.run(module, i / STEPS)
    indicators = [event.indicator for event in session.trace.events]
    assert indicators[1:] == [pytest.approx(max(each.values()), rel=1e-4) for each in expected]
    assert all(len(each) == 2 and len({round(value, 6) for value in each.values()}) == 2 for each in expected)


def test_one_stream_alone_would_be_another_number() -> None:
    """In one of the models at least the sound changes more than the picture."""
    louder = {max(each, key=lambda stream: each[stream]) for name in NAMES for each in means(model_of(name))}
    assert louder & {"audio_hidden_states", "aud"}
