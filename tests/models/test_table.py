"""The rows of the model table against the classes they describe, and what is made of a row."""

import inspect
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from bwcache.errors import NoBlocksFoundError
from bwcache.models import Place, denoisers, resolve, supported
from bwcache.models.streams import Stream
from bwcache.models.table import ROWS, row, row_of
from tests.comfy.look_alike import CLASSES
from tests.servers.look_alike import Denoiser as Served
from tests.tiny import CASES, Case, each_case, wan_transformer
from tests.zoo import native

NATIVE = [type(model.build()) for model in native.MODELS]


@pytest.mark.parametrize("spec", ROWS, ids=lambda spec: f"{spec.module_prefix}{spec.model}")
def test_a_row_names_a_class_and_its_time(spec) -> None:  # type: ignore[no-untyped-def]
    if spec.module_prefix == "diffusers.":
        model = getattr(diffusers, spec.model)
    elif spec.module_prefix.startswith("comfy."):
        model = CLASSES[f"{spec.module_prefix}.{spec.model}"]
    elif spec.module_prefix.startswith(("sglang.", "vllm_omni.")):
        model = Served
    else:
        model = next(kind for kind in NATIVE if row_of(kind) is spec)
    assert spec.timestep in inspect.signature(_forward(model)).parameters
    assert not spec.lists or set(spec.read_after) <= set(spec.lists[-1].returns)
    assert all((part.measured or spec.measured) in part.returns for part in spec.lists)
    assert spec.sources


def _forward(model: Any) -> Any:
    """The forward of instances, which one class sets for itself."""
    return getattr(model, "forward_ckpt", model.forward)


def test_each_class_has_one_row() -> None:
    assert len({(spec.model, spec.module_prefix) for spec in ROWS}) == len(ROWS)
    assert set(supported()) == {spec.model for spec in ROWS}
    assert len(supported()) == len(set(supported()))
    assert row("SomethingElse") is None


def test_a_row_is_found_by_name_and_by_the_module_that_defines_the_class() -> None:
    wan, skyreels = row("WanModel", "wan.modules.model"), row("WanModel", "skyreels_v2_infer.modules.transformer")
    assert (wan.module_prefix, skyreels.module_prefix) == ("wan.modules", "skyreels_v2_infer.modules")  # type: ignore[union-attr]
    assert row("WanModel", "somewhere.else") is None
    assert row("WanModel") is wan
    assert row("WanTransformer3DModel", "diffusers.models.transformers.transformer_wan") is not None
    assert row("WanTransformer3DModel", "diffusers_modules.local") is None


def _derived(base: type, name: str, module: str) -> type:
    return type(name, (base,), {"__module__": module})


def test_a_class_of_a_known_name_from_elsewhere_is_unknown() -> None:
    stranger = _derived(torch.nn.Module, "WanTransformer3DModel", "somewhere.else")
    assert row_of(stranger) is None
    with pytest.raises(NoBlocksFoundError, match=r"somewhere\.else"):
        resolve("model", stranger())


def test_a_class_that_derives_from_a_known_one_has_its_row() -> None:
    """Users' own classes, and those that FSDP makes up."""
    base = diffusers.WanTransformer3DModel
    for name, module in (("Mine", "__main__"), ("FSDPWanTransformer3DModel", base.__module__)):
        kind = _derived(base, name, module)
        assert row_of(kind) is row_of(base)
        assert row_of(_derived(kind, "Grandchild", "__main__")) is row_of(base)
        module = wan_transformer(model=kind)
        assert len(resolve("model", module).blocks) == 4
        pipe = SimpleNamespace(components={"transformer": module, "vae": torch.nn.Linear(1, 1)})
        assert denoisers(pipe) == {"transformer": module}


def test_the_row_of_the_class_itself_comes_before_those_of_its_bases() -> None:
    vace = next(kind for kind in NATIVE if kind.__name__ == "VaceWanModel")
    assert [base.__name__ for base in vace.__mro__][1] == "WanModel"
    assert row_of(vace).model == "VaceWanModel"  # type: ignore[union-attr]


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
            last, decoded = i == len(stack.blocks) - 1, stack.spec.read_after

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
    one = Place("b", module, (Stream("x", 0),))
    two = Place("b", module, (Stream("x", 0), Stream("y", 1)))
    assert one.packed(one.outputs(5)) == 5
    assert two.packed(two.outputs((5, 6))) == (5, 6)
    assert two.packed({"y": 6, "x": 5}) == (5, 6)


def test_a_bare_module_is_its_own_denoiser() -> None:
    module = wan_transformer()
    assert denoisers(module) == {"model": module}
    stack = resolve("model", module)
    assert [block.name for block in stack.blocks] == [f"blocks.{i}" for i in range(4)]
    assert (stack.whole().first, stack.whole().last) == (stack.blocks[0], stack.blocks[3])
    assert stack.tap(2).place is stack.blocks[2]


def test_two_lists_stand_one_after_the_other() -> None:
    hunyuan = next(case for case in CASES if case.name == "hunyuan").build().transformer
    names = [block.name for block in resolve("transformer", hunyuan).blocks]
    assert names == [
        "transformer_blocks.0",
        "transformer_blocks.1",
        "single_transformer_blocks.0",
        "single_transformer_blocks.1",
    ]
