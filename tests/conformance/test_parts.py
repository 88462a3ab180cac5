"""Parts of blocks, named modules and the root are what the rows say, on every denoiser class, bare."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bwcache.models import Place, resolve
from bwcache.models.table import ROWS
from tests.conformance.test_models import alike, snapshot
from tests.zoo import MODELS
from tests.zoo.kinds import Model, note_calls, put_around, tensors

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name.replace(" ", "-"))

PARTLY = {
    "Kandinsky6Transformer3DModel silent": "without sound no part of it is called",
    "LTX2VideoTransformer3DModel isolated": "in the pass in which neither looks at the other",
}
"""Variants in which the forward's arguments say that some parts are not called."""

UNNAMED = {"HeliosTransformer3DModel": "embeds the time of its history first, by the same module"}

ATTENTION = {"self", "joint", "temporal", "transformer"}


class Stored:
    """What each part returned in one forward, given back in another one."""

    def __init__(self, places: tuple[Place, ...]) -> None:
        self.replaying = False
        self.kept: dict[str, Any] = {}
        for place in places:
            put_around(place, functools.partial(self.around, place))

    def around(self, place: Place, forward: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self.replaying:
                return snapshot(self.kept[place.name])
            returned = forward(*args, **kwargs)
            self.kept[place.name] = snapshot(returned)
            expect_streams(place, args, kwargs, returned)
            return returned

        return called


def expect_streams(place: Place, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
    """Each stream leaves in the shape in which it entered; what a part only returns is a tensor."""
    entered, left = place.inputs(args, kwargs), place.outputs(returned)
    assert list(left) == [stream.name for stream in place.streams]
    assert set(entered) == (set() if place.outlined else set(left))
    for name, value in left.items():
        assert isinstance(value, Tensor), (place.name, name)
        assert place.outlined or value.shape == entered[name].shape, (place.name, name)
        assert place.value(returned, place.position(name)) is value
    if not isinstance(returned, tuple) or len(returned) > 1:
        assert tensors(place.packed(left))[0].equal(tensors(returned)[0])


@each_model
def test_a_part_is_called_once_and_what_it_returned_can_be_given_back(model: Model) -> None:
    module = model.build()
    stack = resolve("model", module)
    places = stack.parts()
    if not places:
        assert all(part.parts_missing for part in stack.spec.lists)
        pytest.skip("its row names no parts")
    called: list[str] = []
    stored = Stored(places)
    for place in places:
        note_calls(place, called)
    expected = model.run(module, 0.0)
    names = [place.name for place in places]
    assert called == [name for name in names if name in called]
    assert (called != names) == (model.name in PARTLY)
    stored.replaying = True
    assert alike(model.run(module, 0.0), expected)
    later = model.run(module, 0.5)
    stored.replaying = False
    assert not alike(later, model.run(module, 0.5)), "the parts made no difference: the test shows nothing"


@each_model
def test_named_modules_are_called_and_follow_the_time(model: Model) -> None:
    """Of several calls the first: others embed what stands still, such as the history's time."""
    module = model.build()
    stack = resolve("model", module)
    if not stack.spec.named:
        assert stack.spec.model in UNNAMED or stack.spec.module_prefix != "diffusers."
        pytest.skip(UNNAMED.get(stack.spec.model, "its row names none"))
    order: list[str] = []
    seen: dict[str, Tensor] = {}
    note_calls(stack.blocks[0], order)
    for name in stack.spec.named:
        place = stack.named(name)

        def note(part: Any, args: Any, output: Any, place: Place = place) -> None:
            value = place.value(output, 0)
            assert place.outputs(output)[place.name] is value
            if place.name not in seen:
                order.append(place.name)
                seen[place.name] = value.clone()

        place.module.register_forward_hook(note)
    model.run(module, 0.0)
    first = dict(seen)
    seen.clear()
    assert sorted(order) == sorted([stack.blocks[0].name, *stack.spec.named])
    if "time" in stack.spec.named:
        assert order.index("time") < order.index(stack.blocks[0].name), "not there before the first block"
    order.clear()
    model.run(module, 0.5)
    for name, value in first.items():
        assert not value.equal(seen[name]), f"{name} does not follow the time"


@each_model
def test_the_root_turns_latents_into_a_prediction_of_their_shape(model: Model) -> None:
    """But for the channels: some take a condition beside the latents, some return a variance beside the mean."""
    module = model.build()
    root = resolve("model", module).root
    inputs = model.inputs(0.0)
    [latents] = root.inputs((), inputs).values()
    with torch.no_grad():
        made = root.value(module(**inputs), 0)
    first = latents[0] if isinstance(latents, (list, tuple)) else latents
    while isinstance(first, (list, tuple)):
        first = first[0]
    assert isinstance(made, Tensor)
    shapes = [list(each.shape) for each in (first, made)]
    shapes = [[size for size in shape if size != 1] for shape in shapes]
    unlike = [a for a, b in zip(*shapes, strict=True) if a != b]
    assert len(unlike) <= 1, shapes


def test_all_that_is_replayed_is_measured() -> None:
    """Else one stream could run away while another one holds the indicator down."""
    for row in ROWS:
        assert set(row.read_after) == {row.measured, *row.also_measured}, row.model


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.module_prefix}{row.model}")
def test_what_is_missing_among_the_parts_has_a_reason(row: Any) -> None:
    for part in row.lists:
        kinds = set(part.parts)
        complete = bool(kinds & ATTENTION) and bool(kinds & {"ffn", "temporal_ffn", "resnet"})
        assert complete or part.parts_missing, f"{row.model}: parts or parts_missing for {part.path}"
        assert not (complete and part.parts_missing), f"{row.model}: {part.path} lacks nothing"


@pytest.mark.parametrize("row", [row for row in ROWS if row.module_prefix == "diffusers."], ids=lambda row: row.model)
def test_every_name_in_a_row_is_one_of_some_variant(row: Any) -> None:
    stacks = [model.stack for model in MODELS if model.stack.spec is row]
    assert stacks
    assert {kind for part in row.lists for kind in part.parts} == {kind for stack in stacks for kind in stack.kinds}
    assert all(stack.named(name) for stack in stacks for name in row.named)
