"""Samples that decide for themselves, on every denoiser class: each comes out as when it is alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import Decision, Observation, compute, reuse
from bwcache.models import resolve
from tests.tiny import Scripted
from tests.zoo import MODELS
from tests.zoo.kinds import Model, tensors

STEPS = 4


class Turns(Scripted):
    """Sample 0 reuses step 1, sample 1 reuses step 2."""

    @property
    def may_reuse(self) -> bool:
        return True

    def decide(self, observation: Observation, state: None) -> Decision:
        step = observation.step
        return reuse("its turn") if step.index == (step.sample or 0) + 1 else compute("not its turn")


class Second(Turns):
    """What sample 1 does, for one that is alone."""

    def decide(self, observation: Observation, state: None) -> Decision:
        return reuse("its turn") if observation.step.index == 2 else compute("not its turn")


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value) if value.ndim else value
    if type(value) in (list, tuple):
        return type(value)(mapped(change, item) for item in value)
    return {key: mapped(change, item) for key, item in value.items()} if isinstance(value, dict) else value


def worked_on(inputs: dict[str, Any]) -> Tensor | None:
    """What the denoiser works on: the first tensor of at least three sizes."""
    return next((value for value in inputs.values() if isinstance(value, Tensor) and value.ndim >= 3), None)


def guided(inputs: dict[str, Any]) -> dict[str, Any]:
    """Guidance in one batch runs on the same latents in every row."""
    latents = worked_on(inputs)
    return mapped(lambda value: value[:1].expand_as(value).clone() if value is latents else value, inputs)


def two(inputs: dict[str, Any], rows: int) -> dict[str, Any]:
    """One sample, in so many rows, as a batch of two: the second has other numbers."""

    def both(value: Tensor) -> Tensor:
        if len(value) != rows:
            return value
        other = value.roll(1, -1) * 0.9 if value.is_floating_point() and value.ndim >= 3 else value
        return torch.stack([value, other], dim=1).flatten(0, 1)

    return mapped(both, inputs)


def one(inputs: dict[str, Any], rows: int, sample: int) -> dict[str, Any]:
    """One of the two samples for itself."""
    return mapped(lambda value: value[sample::2] if len(value) == 2 * rows else value, inputs)


def forwards(module: Any, inputs: list[dict[str, Any]], policy: Any, **settings: Any) -> list[list[Tensor]]:
    with bwcache.attach(module, policy, steps=STEPS, **settings), torch.no_grad():
        return [tensors(module(**given)) for given in inputs]


def batches(model: Model, module: Any) -> tuple[list[dict[str, Any]], int] | str:
    """The forwards of a run on two samples, and the rows of each; or why two samples cannot be made here."""
    latents = worked_on(model.inputs(0.0))
    if latents is None:
        return "its samples are a list"
    rows = len(latents)
    both = [two(guided(model.inputs(i / STEPS)), rows) for i in range(STEPS)]
    try:
        with torch.no_grad():
            whole = tensors(module(**both[0]))
            alone = [tensors(module(**one(both[0], rows, sample))) for sample in (0, 1)]
    except Exception as error:
        return f"takes no such batch: {error}"
    apart = all(
        len(a) == 2 * rows and torch.allclose(a[sample::2], alone[sample][k], atol=1e-3)
        for k, a in enumerate(whole)
        for sample in (0, 1)
    )
    return (both, rows) if apart else "the two samples look at each other"


def expect_as_alone(module: Any, both: list[dict[str, Any]], rows: int) -> None:
    made = forwards(module, both, Turns(), per_sample=True)
    single = [
        forwards(module, [one(given, rows, sample) for given in both], policy)
        for sample, policy in enumerate((Turns(), Second()))
    ]
    for step in range(STEPS):
        for k, tensor in enumerate(made[step]):
            for sample in (0, 1):
                torch.testing.assert_close(tensor[sample::2], single[sample][step][k], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name.replace(" ", "-"))
def test_samples_come_out_as_when_alone(model: Model) -> None:
    """A row says that its samples can be told apart only if this was seen of at least one of the model's variants."""
    module = model.build()
    spec = resolve("model", module).spec
    found = batches(model, module)
    if isinstance(found, str):
        kind = model.name.split(" ")[0]
        others = [other for other in MODELS if other is not model and other.name.split(" ")[0] == kind]
        seen = any(not isinstance(batches(other, other.build()), str) for other in others)
        assert seen or not spec.per_sample, f"{found}: its row must say per_sample=False"
        pytest.skip(found)
    if not spec.per_sample:
        pytest.skip("its row says that a batch decides as one")
    expect_as_alone(module, *found)
