"""FLOPs per block: torch's counter, block by block, against counts by hand and another attention kernel."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import bwcache
from bwcache import BlockList, BlockSpec, SettingError, shapes
from bwcache.measure.call import Request
from bwcache.measure.flops import FlopCount, count_flops
from tests.tiny import CASES, WAN, Scripted

WIDTH, TOKENS = 8, 6


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH)

    def forward(self, hidden_states):
        return hidden_states + self.down(torch.relu(self.up(hidden_states)))


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(inner) for inner in (4, 16, 32))
        self.embed, self.out = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, hidden_states, timestep):
        hidden_states = self.embed(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.out(hidden_states)


ROW = BlockSpec("Denoiser", (BlockList("blocks"),))


def products(rows, inner, columns):
    """Of a matrix product: a multiplication and an addition for each term."""
    return 2 * rows * inner * columns


def test_linear_layers_as_counted_by_hand():
    model = Denoiser()
    with FlopCount(model, ROW) as count, torch.no_grad():
        model(torch.ones(1, TOKENS, 2), torch.ones(1))
    found = count.denoisers["model"]
    assert found.blocks == {f"blocks.{i}": 2 * products(TOKENS, WIDTH, n) for i, n in enumerate((4, 16, 32))}
    assert found.rest == 2 * products(TOKENS, 2, WIDTH)
    assert found.total == sum(found.blocks.values()) + found.rest
    assert found.block_share == pytest.approx(found.blocks["blocks.0"] * 13 / found.total)


def test_only_the_first_forward_is_kept_and_nothing_stays():
    model = Denoiser()
    with FlopCount(model, ROW) as count, torch.no_grad():
        for tokens in (TOKENS, 4 * TOKENS):
            model(torch.ones(1, tokens, 2), torch.ones(1))
    assert count.denoisers["model"].rest == 2 * products(TOKENS, 2, WIDTH)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_forward_that_breaks_off_is_not_counted():
    model = Denoiser()
    with FlopCount(model, ROW) as count, torch.no_grad():
        with pytest.raises(RuntimeError):
            model(torch.ones(1, TOKENS, 3), torch.ones(1))
        assert count.denoisers == {}
        model(torch.ones(1, TOKENS, 2), torch.ones(1))
    assert count.denoisers["model"].blocks["blocks.0"] == 2 * products(TOKENS, WIDTH, 4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kernel_of_attention_does_not_change_the_count(case):
    """The CPU's fused attention, which torch has no formula for, against attention by matrix products."""
    pipe, found = case.build(), {}
    for name, backends in (("fused", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]), ("products", [SDPBackend.MATH])):
        with FlopCount(pipe) as count, sdpa_kernel(backends):
            case.run(pipe, num_inference_steps=2)
        found[name] = count.denoisers
    assert found["fused"] == found["products"]
    assert all(flops > 0 for one in found["fused"].values() for flops in one.blocks.values())


def test_both_experts():
    case = next(case for case in CASES if case.name == "wan_two_experts")
    pipe = case.build()
    with FlopCount(pipe) as count:
        case.run(pipe)
    assert list(count.denoisers) == ["transformer", "transformer_2"]
    assert count.denoisers["transformer"] == count.denoisers["transformer_2"]


def test_blocks_that_are_reused_count_as_nothing():
    """With a second step reused, the count that starts there sees a part of the rest of the denoiser alone."""
    pipe = WAN.build()
    with FlopCount(pipe) as uncached:
        WAN.run(pipe, num_inference_steps=2)
    counts = []

    def count_second_step(pipe, step, timestep, tensors):
        if step == 0:
            counts.append(FlopCount(pipe).__enter__())
        return tensors

    with bwcache.attach(pipe, Scripted(frozenset({1}))):
        WAN.run(pipe, num_inference_steps=2, callback_on_step_end=count_second_step)
    counts[0].__exit__(None, None, None)
    found = counts[0].denoisers["transformer"]
    assert set(found.blocks.values()) == {0}
    assert 0 < found.rest < uncached.denoisers["transformer"].rest  # what only blocks read is skipped too


def test_the_shapes_model():
    found = count_flops(shapes.load(), Request("a red circle", steps=1, height=32, width=32, frames=9))
    flops = found["transformer"]
    assert len(set(flops.blocks.values())) == 1  # its blocks are alike
    assert flops.block_share > 0.9


def test_a_model_whose_blocks_are_never_called():
    class DiffusionTransformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.Module()
            self.transformer.layers = nn.ModuleList([nn.Linear(2, 2)])
            vars(self.transformer)["hooks"] = {"layer_forward": lambda hidden_states, layer_id: hidden_states}

        def forward(self, hidden_states, timesteps):
            return hidden_states

    row = BlockSpec(
        "DiffusionTransformer",
        (BlockList("transformer.layers", hook="transformer.hooks.layer_forward", index="layer_id"),),
        timestep="timesteps",
    )
    with pytest.raises(SettingError, match="never called itself"):
        FlopCount(DiffusionTransformer(), row)
