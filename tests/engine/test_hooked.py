"""Blocks that are never called: a function in a mapping is called for each, with its number."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.errors import SpecMismatchError
from bwcache.models import BlockList, BlockSpec, resolve
from bwcache.models.table import row_of
from tests.engine.test_restore import everything_on
from tests.tiny import Scripted
from tests.zoo import native
from tests.zoo.kinds import noise, seeded

STEPS = 6
POLICY = Scripted(frozenset({2, 3}))
MODEL = next(model for model in native.MODELS if model.name.startswith("CogVideo "))


def runs(module: Any, steps: int = STEPS) -> list[Tensor]:
    return [MODEL.run(module, i / STEPS)[0] for i in range(steps)]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def test_leaving_restores_the_mapping_and_everything_else() -> None:
    module = MODEL.build()
    runs(module, 1)  # the model copies its hooks into the transformer's at each forward
    found, before, expected = dict(module.hooks), everything_on(module), runs(module)
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        assert inspect.signature(module.hooks["layer_forward"]) == inspect.signature(found["layer_forward"])
        assert module.hooks != found
        assert not equal(runs(module), expected)
    assert module.hooks == module.transformer.hooks == found
    assert reuse_line(session.trace.events) == "CCrrCC"
    assert equal(runs(module), expected)
    assert everything_on(module) == before


def test_an_entry_that_somebody_sets_meanwhile_is_taken_up_and_stays() -> None:
    module = MODEL.build()
    inner, heard = module.hooks["layer_forward"], []

    def louder(*args: Any, **kwargs: Any) -> Tensor:
        heard.append(int(kwargs["layer_id"]))
        return inner(*args, **kwargs)

    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        runs(module, 1)
        module.hooks["layer_forward"] = louder
        for i in range(1, STEPS):
            MODEL.run(module, i / STEPS)
        assert reuse_line(session.trace.events) == "CCrrCC"
        assert heard == [0, 1, 2] * 3
    assert module.hooks["layer_forward"] is louder


class Model(nn.Module):
    """Of this file, so that pickle finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.hooks = {"layer_forward": self.layer_forward}

    def layer_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x + self.layers[kwargs["layer_id"]](x)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = x * t
        for i in range(len(self.layers)):
            x = self.hooks["layer_forward"](x, layer_id=i)
        return x


ROW = BlockSpec(
    "Model",
    (BlockList("layers", ("x",), hook="hooks.layer_forward"),),
    read_after=("x",),
    measured="x",
    timestep="t",
    module_prefix="",
)


def through_pickle(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_a_copy_is_free_of_the_session(copied: Any) -> None:
    module, x = seeded(Model), noise(1, 3, 4)
    expected = [module(x, torch.tensor(10.0 - i)) for i in range(STEPS)]
    with bwcache.attach(module, POLICY, steps=STEPS, spec=ROW) as session:
        twin = copied(module)
        assert twin.hooks["layer_forward"].__self__ is twin
        made = [twin(x, torch.tensor(10.0 - i)) for i in range(STEPS)]
        assert not session.traces
        module(x, torch.tensor(10.0))
        twin.layers[0].weight.data.zero_()
        assert torch.equal(module(x, torch.tensor(9.0)), expected[1])
    assert equal(made, expected)


@pytest.mark.parametrize("hook", ["hooks.forward_layer", "hook.layer_forward", "layers.layer_forward"])
def test_a_hook_that_is_not_there(hook: str) -> None:
    module = seeded(Model)
    wrong = replace(ROW, lists=(replace(ROW.lists[0], hook=hook),))
    with pytest.raises(SpecMismatchError, match=re.escape(f"a function {hook.split('.')[1]!r}")):
        resolve("model", module, wrong)


def test_an_argument_that_the_hook_does_not_have() -> None:
    wrong = replace(ROW, lists=(replace(ROW.lists[0], returns=("hidden",)),), read_after=("hidden",), measured="hidden")
    with pytest.raises(SpecMismatchError, match=r"forward\(x, args, kwargs\) of layers\.0"):
        resolve("model", seeded(Model), wrong)


def test_an_index_that_the_model_does_not_pass() -> None:
    module = seeded(Model)
    wrong = replace(ROW, lists=(replace(ROW.lists[0], index="layer"),))
    with (
        bwcache.attach(module, POLICY, steps=STEPS, spec=wrong),
        pytest.raises(SpecMismatchError, match=r"layer=None.*0 to 2"),
    ):
        module(noise(1, 3, 4), torch.tensor(1.0))
    assert module(noise(1, 3, 4), torch.tensor(1.0)).isfinite().all()


def test_the_row_of_sat() -> None:
    row = row_of(type(MODEL.build()))
    assert row is not None
    assert row.lists[0].hook == "hooks.layer_forward"
    blocks = resolve("model", MODEL.build()).blocks
    assert [block.name for block in blocks] == [f"transformer.layers.{i}" for i in range(3)]
    assert [block.hook.number for block in blocks if block.hook] == [0, 1, 2]
