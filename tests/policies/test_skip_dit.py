"""Skip-DiT: bit for bit what plain patches do, on HunyuanDiT and on a small model with long skips of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache import AttachError, BlockList, BlockSpec, SettingError, SkipDiT
from tests import tiny
from tests.policies.proof import NONE, ONE, TWO, proves
from tests.tiny import noise, seeded
from tests.zoo import PIPELINES
from tests.zoo.sana import hunyuan_dit

STEPS = 10


class Block(nn.Module):
    """A block that may take what an earlier one returned."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)
        self.fuse = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8)) if late else None

    def forward(self, hidden_states: Tensor, temb: Tensor, text: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.fuse is not None:
            hidden_states = self.fuse(torch.cat((hidden_states, skip), dim=-1))
        return hidden_states + torch.tanh(self.mix(hidden_states) + text) * temb


class Skipping(nn.Module):
    """Six blocks in a U."""

    def __init__(self, count: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(i >= count // 2) for i in range(count))
        self.proj_out = nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        temb, text, skips = 1 + timestep.view(-1, 1, 1) / 1000, encoder_hidden_states.mean(1, keepdim=True), []
        for i, block in enumerate(self.blocks):
            if i < len(self.blocks) // 2:
                hidden_states = block(hidden_states, temb, text)
                skips.append(hidden_states)
            else:
                hidden_states = block(hidden_states, temb, text, skip=skips.pop())
        return self.proj_out(hidden_states)


ROW = BlockSpec("Skipping", (BlockList("blocks"),), long_skips=True, module_prefix="tests.")


def sampled(model: nn.Module, guided: bool) -> Tensor:
    """Guided in two forwards, or not."""
    latents = noise(1, 6, 8)
    texts = [noise(1, 3, 8, seed=seed) for seed in ((1, 2) if guided else (1,))]
    with torch.no_grad():
        for timestep in torch.linspace(950, 20, STEPS):
            found = [model(latents, timestep.view(1), text) for text in texts]
            velocity = found[-1] + 4 * (found[0] - found[-1])
            latents = latents - 0.1 * velocity
    return latents


@contextmanager
def by_hand(module: nn.Module, computed: list[int], branches: int) -> Iterator[list[int]]:
    """The block before the last one returns what it did at the last computed step; which blocks ran, in all."""
    blocks, kept, ran = list(module.blocks), {}, []  # type: ignore[arg-type]
    forwards = [-1]
    counter = module.register_forward_pre_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1))
    for i, block in enumerate(blocks):
        inner = block.forward

        def forward(*args: Any, i: int = i, inner: Any = inner, **kwargs: Any) -> Any:
            step, branch = divmod(forwards[0], branches)
            if step not in computed and 0 < i < len(blocks) - 1:
                return kept[branch].clone() if i == len(blocks) - 2 else args[0] if args else kwargs["hidden_states"]
            ran.append(i)
            returned = inner(*args, **kwargs)
            if i == len(blocks) - 2:
                kept[branch] = returned.clone()
            return returned

        block.forward = forward  # type: ignore[method-assign]
    try:
        yield ran
    finally:
        counter.remove()
        for block in blocks:
            del block.forward


@proves(SkipDiT, "plain patches", on={"a small model with long skips": (TWO, NONE)})
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize(("interval", "computed"), [(2, [0, 1, 2, 4, 6, 8, 9]), (3, [0, 1, 2, 5, 8, 9])], ids=str)
def test_it_is_plain_patches_bit_for_bit(interval: int, computed: list[int], guided: bool) -> None:
    """950, 847, 743 lie before the window, 20 after it."""
    model, branches = seeded(Skipping), 2 if guided else 1
    with by_hand(model, computed, branches) as ran:
        expected = sampled(model, guided)
    assert ran.count(0) == ran.count(5) == STEPS * branches
    assert ran.count(3) == len(computed) * branches
    plain = sampled(model, guided)
    with bwcache.attach(model, SkipDiT(interval), steps=STEPS, spec=ROW) as session:
        made = sampled(model, guided)
    assert torch.equal(made, expected)
    assert not torch.equal(made, plain)
    assert sorted({event.step for event in session.trace.events if event.action == "compute"}) == computed
    assert {event.site for event in session.trace.events} == {"model/blocks.1-blocks.4"}


@proves(SkipDiT, "plain patches", on={"HunyuanDiT2DModel": (ONE, NONE)})
@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.0}], ids=["guided", "unguided"])
def test_hunyuan_dit_bit_for_bit(changes: dict[str, Any]) -> None:
    """A published model with long skips, guided in one forward."""
    case = next(case for case in PIPELINES if case.name == "HunyuanDiTPipeline")
    pipe = case.build()
    with bwcache.attach(pipe, SkipDiT(3, 900, 100)) as session:
        made = case.run(pipe, num_inference_steps=STEPS, **changes)
    computed = sorted({event.step for event in session.trace.events if event.action == "compute"})
    assert session.trace.reused > 0
    pipe = case.build()
    with by_hand(pipe.transformer, computed, 1):
        expected = case.run(pipe, num_inference_steps=STEPS, **changes)
    assert torch.equal(made, expected)
    assert {event.reason.split(" (")[0] for event in session.trace.events} == {
        "first step",
        "outside the window",
        "interval over",
        "within the interval",
    }


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match="WanTransformer3DModel, whose blocks no long skips connect"):
        bwcache.attach(tiny.wan_transformer(), SkipDiT())
    with pytest.raises(AttachError, match="2 blocks in Skipping"):
        bwcache.attach(seeded(lambda: Skipping(2)), SkipDiT(), spec=ROW)
    with bwcache.attach(hunyuan_dit(), SkipDiT(), steps=4):
        pass


@pytest.mark.parametrize("bad", [{"interval": 0}, {"start": "700"}, {"stop": 700}, {"stop": None}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        SkipDiT(**bad)
