"""Blocks that are not called once each, in their order: nothing of such a forward may be replayed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache import BlockList, BlockSpec
from bwcache.engine import reasons
from tests.tiny import Scripted, noise, seeded

ROW = BlockSpec("Looping", (BlockList("blocks"),), module_prefix=__name__)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + torch.tanh(self.mix(hidden_states))


class Looping(nn.Module):
    """Calls its blocks in the order that it is told."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.order = order

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        for i in self.order:
            hidden_states = self.blocks[i](hidden_states)
        return hidden_states


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("order", [(0, 1, 1, 2), (0, 2, 1, 2), (0, 1, 2, 2)], ids=str)
def test_a_block_that_comes_again_leaves_nothing_to_replay(order: tuple[int, ...]) -> None:
    made = []
    for reused in (frozenset(range(1, 5)), frozenset[int]()):
        module = seeded(lambda: Looping(order))
        with bwcache.attach(module, Scripted(reused), steps=5, spec=ROW) as session, torch.no_grad():
            made.append([module(noise(1, 4, 8, seed=i), torch.tensor([900.0 - 100 * i])) for i in range(5)])
        assert session.trace.reused == 0
        assert {event.reason for event in session.trace.events} == {reasons.LEFT_OUT}
    assert all(map(torch.equal, *made))
