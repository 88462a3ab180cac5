"""Runs that break off, other sizes and guidance that comes and goes, on every denoiser class, bare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.models import resolve
from tests.conformance.test_batches import STEPS, batches, mapped
from tests.conformance.test_models import alike
from tests.tiny import Scripted
from tests.zoo import MODELS
from tests.zoo.kinds import Model, put_around, tensors

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name.replace(" ", "-"))

GREEDY = Scripted(frozenset(range(1, STEPS)))
"""Reuses wherever the engine lets it."""


def found_on(module: nn.Module) -> dict[tuple[str, str], Any]:
    """What a session could leave on a module and its parts: attributes, hooks, a forward, a compiled call."""
    found: dict[tuple[str, str], Any] = {}
    for name, part in module.named_modules():
        own = vars(part)
        found[name, "attributes"] = sorted(own)
        found[name, "hooks"] = {key: list(value) for key, value in own.items() if key.endswith("hooks") and value}
        found[name, "forward"] = own.get("forward", type(part).forward)
        found[name, "call"] = own.get("_compiled_call_impl")
        found[name, "class"] = type(part)
    found["", "state"] = list(module.state_dict())
    return found


def other(value: Tensor) -> Tensor:
    """Of what is more than a list of numbers, other ones."""
    return value.roll(1, -1) * 0.9 if value.is_floating_point() and value.ndim >= 3 else value


def inputs(model: Model) -> list[dict[str, Any]]:
    return [model.inputs(i / STEPS) for i in range(STEPS)]


def changed(model: Model, module: Any) -> list[dict[str, Any]]:
    """The same times with other numbers."""
    time = resolve("model", module).timestep.name
    return [{**mapped(other, given), time: given[time]} for given in inputs(model)]


def others(model: Model, module: Any) -> list[dict[str, Any]]:
    """Another run: of twice the samples where the model takes such a batch, else of other numbers."""
    found = batches(model, module)
    return changed(model, module) if isinstance(found, str) else found[0]


def outputs(module: Any, run: list[dict[str, Any]]) -> list[list[Tensor]]:
    with torch.no_grad():
        return [tensors(module(**mapped(torch.clone, given))) for given in run]  # some use up lists that they are given


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))


def rows(trace: bwcache.Trace) -> list[tuple[Any, ...]]:
    return [(event.step, event.sample, event.branch, event.action, event.indicator) for event in trace.events]


@each_model
def test_leaving_restores_everything(model: Model) -> None:
    module = model.build()
    expected = outputs(module, inputs(model))
    before = found_on(module)
    with bwcache.attach(module, GREEDY, steps=STEPS) as session:
        made = outputs(module, inputs(model))
        assert found_on(module) != before
    assert found_on(module) == before
    assert session.trace.reused > 0
    assert not same(made, expected)
    assert same(outputs(module, inputs(model)), expected)


class Raises:
    """Around a block: its calls, of which one can be made to raise."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.error: type[BaseException] = RuntimeError

    def around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left == 0:
                    self.left = None
                    raise self.error("in a block")
            return inner(*args, **kwargs)

        return called


@each_model
def test_nothing_of_a_run_that_broke_off_is_in_the_next_one(model: Model) -> None:
    """An exception and then Ctrl-C in the middle of the stack; each time the next run is of another size."""
    module = model.build()
    run, next_run = inputs(model), others(model, module)
    blocks = resolve("model", module).blocks
    script = Scripted(frozenset({1, 3}))
    with bwcache.attach(module, script, steps=STEPS) as session:
        clean = outputs(module, next_run)
        expected = rows(session.trace)

    trap = Raises()
    put_around(blocks[len(blocks) // 2], trap.around)
    before = found_on(module)
    with bwcache.attach(module, script, steps=STEPS) as session:
        for error in (RuntimeError, KeyboardInterrupt):
            trap.left, trap.error = 2, error  # it was computed in step 0 and reused in step 1
            with pytest.raises(error, match="in a block"):
                outputs(module, run)
            assert same(outputs(module, next_run), clean)
            assert rows(session.trace) == expected
    assert found_on(module) == before


@each_model
def test_guidance_on_and_off(model: Model) -> None:
    """Two forwards in each step, then one, then two again: every branch reuses what is its own."""
    module = model.build()
    cond = inputs(model)
    uncond = changed(model, module)
    both = [given for pair in zip(cond, uncond, strict=True) for given in pair]
    with bwcache.attach(module, GREEDY, steps=STEPS, per_sample=False) as session:
        alone = [outputs(module, run) for run in (cond, uncond)]
        guided = outputs(module, both)
        assert same(outputs(module, cond), alone[0])
        assert same(outputs(module, both), guided)
    assert same(guided[::2], alone[0])
    assert same(guided[1::2], alone[1])
    branches = [{event.branch for event in trace.events} for trace in session.traces]
    assert branches == [{"call0"}, {"call0"}, {"call0", "call1"}, {"call0"}, {"call0", "call1"}]
