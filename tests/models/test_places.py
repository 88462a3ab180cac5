"""Places of a small denoiser: root, blocks in a dictionary, parts of blocks, named modules; sites and taps on them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.errors import SettingError, SpecMismatchError
from bwcache.models import BlockList, BlockSpec, BlockStack, Part, Place, resolve
from tests.tiny import Scripted

W = 8


class Joint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(W, W)

    def forward(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.mix(x) + text.mean(1, keepdim=True), text * 0.5


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(W, W)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class ToyBlock(nn.Module):
    def __init__(self, last: bool) -> None:
        super().__init__()
        self.attn, self.ff, self.ff_text = Joint(), Net(), None if last else Net()

    def forward(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        attended, told = self.attn(x, text=text)
        x, text = x + attended, text + told
        return x + self.ff(x), text if self.ff_text is None else text + self.ff_text(text)


class Clock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, W)

    def forward(self, time: Tensor) -> tuple[Tensor, Tensor]:
        return time, self.linear(time.view(-1, 1, 1))


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_embed = Clock()
        self.blocks = nn.ModuleDict({f"block{i}": ToyBlock(last=i == 2) for i in range(3)})

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor) -> dict[str, Tensor]:
        x = sample + self.time_embed(timestep)[1]
        for block in self.blocks.values():
            x, text = block(x, text)
        return {"sample": x * 2}


ROW = BlockSpec(
    "Toy",
    (
        BlockList(
            "blocks",
            ("x", "text"),
            parts={
                "joint": Part("attn", ("x", "text")),
                "ffn": Part("ff", ("x",)),
                "text_ffn": Part("ff_text", ("x",)),
            },
            parts_missing="its gates are no modules",
        ),
    ),
    read_after=("x",),
    measured="x",
    latents="sample",
    named={"time": "time_embed[1]", "norm": "norm_out"},
)


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


@pytest.fixture
def stack(toy: Toy) -> BlockStack:
    return resolve("model", toy, ROW)


def given(share: float = 0.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x, text = torch.randn(1, 4, W, generator=generator), torch.randn(1, 3, W, generator=generator)
    return {"sample": x, "timestep": torch.tensor([1.0 - share]), "text": text}


def names(places: tuple[Place, ...]) -> list[str]:
    return [place.name for place in places]


def test_blocks_stand_in_a_dictionary_as_well(stack: BlockStack) -> None:
    assert names(stack.blocks) == ["blocks.block0", "blocks.block1", "blocks.block2"]
    assert [block.block for block in stack.blocks] == [0, 1, 2]
    assert {block.kind for block in stack.blocks} == {"block"}


def test_blocks_of_a_dictionary_are_replayed(toy: Toy) -> None:
    with torch.no_grad(), bwcache.attach(toy, Scripted(frozenset({1})), spec=ROW, steps=2) as session:
        first, second = (toy(**given(share))["sample"] for share in (0.0, 0.5))
    assert torch.equal(first, second), "the time reaches the output through the blocks alone"
    assert [event.action for event in session.trace.events] == ["compute", "reuse"]


def test_the_root_takes_latents_and_returns_the_first_tensor(toy: Toy, stack: BlockStack) -> None:
    arguments = given()
    assert (stack.root.name, stack.root.kind, stack.root.block) == ("root", "root", None)
    assert stack.root.inputs((), arguments) == {"sample": arguments["sample"]}
    assert stack.root.inputs((arguments["sample"],), {}) == {"sample": arguments["sample"]}
    made = toy(**arguments)
    for output in (made, (made["sample"],), [None, made["sample"]], made["sample"]):
        assert stack.root.value(output, 0) is made["sample"]


def test_a_row_without_the_name_of_the_latents_says_so_when_they_are_asked_for(toy: Toy) -> None:
    stack = resolve("model", toy, dataclasses.replace(ROW, latents="hidden_states"))
    with pytest.raises(SpecMismatchError, match="hidden_states"):
        _ = stack.root


def test_parts_come_block_by_block_in_the_order_of_the_calls(toy: Toy, stack: BlockStack) -> None:
    called: list[str] = []
    for place in stack.parts():
        place.module.register_forward_hook(lambda module, args, output, name=place.name: called.append(name))
    toy(**given())
    assert called == names(stack.parts())
    assert names(stack.parts("joint", "text_ffn")) == [
        "blocks.block0.attn",
        "blocks.block0.ff_text",
        "blocks.block1.attn",
        "blocks.block1.ff_text",
        "blocks.block2.attn",
    ]
    assert [part.block for part in stack.parts("text_ffn")] == [0, 1]
    assert stack.parts("joint")[0] is stack.parts()[0]


def test_a_part_has_the_streams_of_its_own_forward(toy: Toy, stack: BlockStack) -> None:
    joint = stack.parts("joint")[0]
    assert (joint.kind, joint.measured, [stream.name for stream in joint.streams]) == ("joint", "x", ["x", "text"])
    x, text = torch.ones(1, 2, W), torch.ones(1, 3, W)
    assert joint.inputs((x,), {"text": text}) == {"x": x, "text": text}
    returned = joint.module(x, text)
    assert joint.packed(joint.outputs(returned)) == returned


def test_a_kind_that_is_not_there_is_refused_with_those_that_are(stack: BlockStack) -> None:
    with pytest.raises(SettingError, match=r"'self' of Toy \(its gates are no modules\).*one of joint, ffn, text_ffn"):
        stack.parts("ffn", "self")


def test_a_part_with_another_argument_is_a_mismatch(toy: Toy) -> None:
    part = dataclasses.replace(ROW.lists[0], parts={"ffn": "ff"})
    stack = resolve("model", toy, dataclasses.replace(ROW, lists=(part,)))
    with pytest.raises(SpecMismatchError, match=r"blocks\.block0\.ff \(Net\).*'hidden_states'"):
        stack.parts("ffn")


def test_a_named_module_is_one_of_the_values_that_it_returns(toy: Toy, stack: BlockStack) -> None:
    time = stack.named("time")
    assert (time.name, time.kind, time.index, time.block, time.measured) == ("time", "named", 1, None, "time")
    assert time.module is toy.time_embed
    returned = time.module(torch.tensor([1.0]))
    assert time.value(returned, 0) is returned[1]
    assert time.outputs(returned) == {"time": returned[1]}
    assert time.inputs((), {"time": 1}) == {}


def test_a_named_module_that_is_not_there_is_refused(stack: BlockStack) -> None:
    for name in ("norm", "modulated"):
        with pytest.raises(SettingError, match="one of: time; name one of these"):
            stack.named(name)


def test_sites(stack: BlockStack) -> None:
    first, second, last = stack.blocks
    whole = stack.whole("residual")
    assert (whole.name, whole.first, whole.last, whole.streams, whole.keeps) == (
        "stack",
        first,
        last,
        ("x",),
        "residual",
    )
    one = stack.site(second)
    assert (one.name, one.first, one.last, one.streams, one.keeps) == (
        second.name,
        second,
        second,
        ("x", "text"),
        "output",
    )
    two = stack.site(first, second, streams=("x",), since=first)
    assert (two.name, two.streams, two.since) == ("blocks.block0-blocks.block1", ("x",), first)
    assert stack.site(last).streams == ("x",)
    assert stack.site(stack.parts("joint")[-1]).streams == ("x", "text")
    root = stack.site(stack.root, beside="cond", keeps="beside", name="all")
    assert (root.name, root.streams, root.beside) == ("all", ("sample",), "cond")


def test_taps(stack: BlockStack) -> None:
    assert stack.tap(1) == stack.tap(stack.blocks[1])
    assert (stack.tap(1).place, stack.tap(1).stream, stack.tap(1).channel) == (stack.blocks[1], "x", 0)
    assert stack.tap(stack.named("time"), against="step").stream == "time"
    assert stack.tap(0, stream="text", lags=(1, 2)).stream == "text"


def test_all_measured_streams_have_taps_each_in_a_channel_of_its_own(toy: Toy) -> None:
    stack = resolve("model", toy, dataclasses.replace(ROW, also_measured=("text",)))
    assert [(tap.place.block, tap.stream, tap.channel) for tap in stack.taps([0, stack.blocks[2]])] == [
        (0, "x", 0),
        (0, "text", 1),
        (2, "x", 0),
        (2, "text", 1),
    ]
    assert len(stack.taps()) == 6
