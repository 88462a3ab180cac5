"""The rows of the model table against the classes they describe, and what is made of a row."""

import inspect

import diffusers
import pytest
import torch
from tiny import CASES, Case, each_case, wan_transformer

from bwcache.models import Block, denoisers, resolve, supported
from bwcache.models.stack import Stream
from bwcache.models.table import ROWS, row


@pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.model)
def test_a_row_names_a_class_of_diffusers_and_its_time(spec) -> None:  # type: ignore[no-untyped-def]
    model = getattr(diffusers, spec.model)
    assert spec.timestep in inspect.signature(model.forward).parameters
    assert set(spec.decoded) <= set(spec.lists[-1].returns)
    assert all(spec.measured in part.returns for part in spec.lists)
    assert spec.sources


def test_each_class_has_one_row() -> None:
    assert len({spec.model for spec in ROWS}) == len(ROWS)
    assert supported() == tuple(spec.model for spec in ROWS)
    assert row("SomethingElse") is None


def test_the_classes_that_must_be_carried_are() -> None:
    needed = {"Wan", "HunyuanVideo", "CogVideoX", "LTXVideo", "Mochi"}
    assert {f"{name}Transformer3DModel" for name in needed} <= set(supported())


@each_case
def test_the_stack_is_in_the_order_in_which_the_forward_runs(case: Case) -> None:
    pipe = case.build()
    called: list[torch.nn.Module] = []
    stacks = [resolve(name, module) for name, module in denoisers(pipe).items()]
    for stack in stacks:
        for block in stack.blocks:
            block.module.register_forward_pre_hook(lambda module, args: called.append(module))
    case.run(pipe, num_inference_steps=2)
    for stack in stacks:
        own = [module for module in called if module in {block.module for block in stack.blocks}]
        forwards = len(own) // len(stack.blocks)
        assert forwards > 0
        assert own == [block.module for block in stack.blocks] * forwards


@each_case
def test_a_block_returns_the_streams_that_its_row_names(case: Case) -> None:
    """Each stream leaves in the shape in which it entered; the last block of a row may drop what nobody reads."""
    pipe = case.build()
    seen = []
    for name, module in denoisers(pipe).items():
        stack = resolve(name, module)
        for i, block in enumerate(stack.blocks):
            last, decoded = i == len(stack.blocks) - 1, stack.spec.decoded

            def check(module, args, kwargs, returned, block=block, last=last, decoded=decoded):  # type: ignore[no-untyped-def]
                entered, left = block.inputs(args, kwargs), block.outputs(returned)
                assert list(entered) == list(left)
                for stream, value in left.items():
                    if value is not None and not (last and stream not in decoded):
                        assert value.shape == entered[stream].shape
                    seen.append(stream)
                packed = block.packed(left)
                assert type(packed) is type(returned)

            block.module.register_forward_hook(check, with_kwargs=True)
    case.run(pipe, num_inference_steps=2)
    assert seen


def test_positions_and_names_are_read_alike() -> None:
    stream = Stream("hidden_states", 0)
    assert stream.read((1, 2), {}) == 1
    assert stream.read((), {"hidden_states": 3, "temb": 2}) == 3


def test_packing_is_the_reverse_of_unpacking() -> None:
    module = torch.nn.Identity()
    one = Block("b", module, (Stream("x", 0),))
    two = Block("b", module, (Stream("x", 0), Stream("y", 1)))
    assert one.packed(one.outputs(5)) == 5
    assert two.packed(two.outputs((5, 6))) == (5, 6)
    assert two.packed({"y": 6, "x": 5}) == (5, 6)


def test_a_bare_module_is_its_own_denoiser() -> None:
    module = wan_transformer()
    assert denoisers(module) == {"model": module}
    stack = resolve("model", module)
    assert [block.name for block in stack.blocks] == [f"blocks.{i}" for i in range(4)]
    assert (stack.whole().first, stack.whole().last) == (0, 3)
    assert stack.tap(2).block == 2


def test_two_lists_stand_one_after_the_other() -> None:
    hunyuan = next(case for case in CASES if case.name == "hunyuan").build().transformer
    names = [block.name for block in resolve("transformer", hunyuan).blocks]
    assert names == [
        "transformer_blocks.0",
        "transformer_blocks.1",
        "single_transformer_blocks.0",
        "single_transformer_blocks.1",
    ]
