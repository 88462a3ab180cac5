"""What a row says is idle in a replay is so, and nothing else is: on every denoiser class of diffusers."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.models import Idle, resolve
from tests.conformance.idle import POISONS, Replays, reads_values
from tests.tiny import Scripted
from tests.zoo import MODELS, native
from tests.zoo.kinds import Model, tensors

STEPS, REUSED = 7, frozenset({2, 3, 5})

READ_AFTER = {
    "WanVACETransformer3DModel last": "a hint is added after the last block",
    "ConsisIDTransformer3DModel each": "the face is looked at after the last block",
    "WanAnimateTransformer3DModel last": "the face is added after the last block",
}
"""Variants in which the config says that some of what is idle elsewhere is read after the blocks."""

VALUES = {
    "BriaFibo2Transformer2DModel": "cuts the text off where its mask ends",
    "GlmImageTransformer2DModel": "indexes by a mask",
    "HunyuanImageTransformer2DModel": "sorts the tokens of the text by their masks",
    "HunyuanVideo15Transformer3DModel": "asks whether the image is all zeros",
    "HunyuanVideoFramepackTransformer3DModel": "cuts the text off where its mask ends",
    "Lumina2Transformer2DModel": "cuts the text off where its mask ends",
    "OmniGenTransformer2DModel": "asks how long the prompt is by its highest position",
    "QwenImage21Transformer2DModel": "repeats tokens as often as their masks say",
    "WanAnimate2Transformer3DModel": "reads the size of the reference from a tensor",
}
"""Classes in which shapes depend on numbers: equal shapes of the arguments do not mean equal shapes inside."""

UNTOLD = {"Flux2Transformer2DModel Klein KV": "its cache of keys and values is an object of a class of its own"}
"""Variants with an argument of which it cannot be said whether it is the same as before: nothing is skipped."""

SOMETIMES = {"Kandinsky6Transformer3DModel silent": {"audio_time_embeddings", "audio_pooled_text_embeddings"}}
"""Idle in a variant and not in others of its class, whose row so does not name them."""

NO_WORK = (nn.SiLU, nn.Dropout)
"""A pointwise function costs about as much as making an empty tensor."""

OWN = tuple(model for model in MODELS if model not in native.MODELS)
"""Native code is looked-alike only (`zoo.native`): nothing is proven of it, and its rows name nothing."""

each_model = pytest.mark.parametrize("model", OWN, ids=lambda model: model.name.replace(" ", "-"))


def counted(part: nn.Module, calls: list[nn.Module]) -> None:
    forward = part.forward

    @functools.wraps(forward)
    def count(*args: Any, **kwargs: Any) -> Any:
        calls.append(part)
        return forward(*args, **kwargs)

    part.forward = count


def made(model: Model, idle: bool) -> tuple[list[list[Tensor]], list[int]]:
    """A run in which three steps are reused: its outputs, and how many calls of idle modules each step took."""
    module = model.build()
    stack = resolve("model", module)
    calls: list[nn.Module] = []
    for part in stack.idle.values():
        counted(part, calls)
    spec = stack.spec if idle else replace(stack.spec, idle=())
    outputs, ran = [], []
    with bwcache.attach(module, Scripted(REUSED), steps=STEPS, spec=spec) as session, torch.no_grad():
        for i in range(STEPS):
            inputs, again = model.inputs(i / STEPS), model.inputs(i / STEPS)
            calls.clear()
            outputs.append(tensors(module(**inputs)))
            ran.append(len(calls))
            assert all(map(torch.equal, tensors(inputs), tensors(again))), "writes into its arguments"
    assert {event.step for event in session.trace.events if event.action == "reuse"} == REUSED
    return outputs, ran


@each_model
@pytest.mark.filterwarnings("ignore:.*computed in every step")
def test_a_replay_without_them_is_the_same_bit_for_bit(model: Model) -> None:
    if not model.stack.idle:
        pytest.skip("it has none")
    (expected, all_of_them), (outputs, ran) = made(model, idle=False), made(model, idle=True)
    assert all(map(torch.equal, [t for step in outputs for t in step], [t for step in expected for t in step]))
    assert len(set(all_of_them)) == 1
    assert all_of_them[0] > 0
    skipped = model.name not in UNTOLD
    assert ran == [0 if skipped and i in REUSED else count for i, count in enumerate(all_of_them)]


@each_model
def test_the_row_names_all_that_are_idle_and_no_other(model: Model) -> None:
    replays = Replays(model)
    named = [path for path in replays.stack.idle if path in replays.called]
    assert all(replays.stays(named, poison) for poison in POISONS)
    if replays.stack.spec.model in VALUES:
        return
    found = {path for path in replays.idle() if not isinstance(replays.outside[path], NO_WORK)}
    found -= SOMETIMES.get(model.name, set())
    assert set(named) <= found, "what the row names is not idle"
    assert found == set(named) or model.name in READ_AFTER, "more is idle than the row names"


@each_model
def test_no_shape_depends_on_a_number(model: Model) -> None:
    """Else equal shapes of the arguments would not tell that what is kept fits: such a row may name nothing."""
    spec = model.stack.spec
    if spec.model in VALUES:
        assert not spec.idle
        pytest.skip(VALUES[spec.model])
    assert reads_values(model) is None
    assert spec.idle


@pytest.mark.parametrize("name", READ_AFTER)
def test_what_the_config_says_is_read_after_the_blocks_is_not_idle(name: str) -> None:
    """Nobody is asked whether the row is right, and no forward runs twice."""
    model = next(model for model in MODELS if model.name == name)
    module = model.build()
    stack = resolve("model", module)
    there = {path for path in stack.spec.idle_paths if attrgetter(path)(module) is not None}
    conditional = {each.path for each in stack.spec.idle if isinstance(each, Idle)}
    assert set(stack.idle) == there - conditional
    forwards: list[int] = []
    module.register_forward_hook(lambda module, args, output: forwards.append(1))
    with warnings.catch_warnings(), bwcache.attach(module, Scripted(REUSED), steps=STEPS), torch.no_grad():
        warnings.simplefilter("error")
        for i in range(STEPS):
            module(**model.inputs(i / STEPS))
    assert len(forwards) == STEPS


@pytest.mark.parametrize("name", VALUES)
def test_classes_that_are_left_out_do_read_numbers(name: str) -> None:
    """If this fails, such a class can be looked at again."""
    assert any(reads_values(model) for model in OWN if model.name.split()[0] == name)


def test_every_name_in_a_row_is_one_of_some_variant() -> None:
    for kind, variants in _by_row().items():
        names = {path for model in variants for path in model.stack.idle}
        unknown = [name for name in kind.idle_paths if not any(f"{path}.".startswith(f"{name}.") for path in names)]
        assert not unknown, f"{kind.model} has no such module in any of its variants"


def test_rows_of_native_code_name_nothing() -> None:
    from bwcache.models.table import ROWS

    assert not [row.model for row in ROWS if row.module_prefix != "diffusers." and row.idle]


def _by_row() -> dict[Any, list[Model]]:
    found: dict[Any, list[Model]] = {}
    for model in OWN:
        found.setdefault(model.stack.spec, []).append(model)
    return found
