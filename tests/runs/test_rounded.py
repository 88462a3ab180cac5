"""Bare modules whose times are rounded to bfloat16, so that neighbours collide: steps told by what else is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.runs.laws import CAREFREE, GREEDY
from tests.tiny import noise, wan_transformer

STEPS = 50
TEXT = {"cond": noise(1, 6, 8, seed=1), "uncond": noise(1, 6, 8, seed=2)}


def shifted(steps: int, shift: float = 30.0) -> Tensor:
    """Times as Open-Sora 2.0 makes them for many tokens, `[steps + 1]`, from 1 to 0."""
    t = torch.linspace(1, 0, steps + 1)
    return shift * t / (1 + (shift - 1) * t)


@dataclass
class Sampler:
    """A loop over a bare module, and what it did: step and forward of each call.

    Attributes:
        conditions: of each step, in order.
        dtype: of the times that the module is given.
        tiles: how many parts of the latents are denoised one after the other.
        in_place: whether the latents are always the same tensor.
    """

    conditions: tuple[str, ...] = ("cond", "uncond")
    steps: int = STEPS
    dtype: torch.dtype = torch.bfloat16
    tiles: int = 1
    in_place: bool = False

    def forwards(self, i: int) -> Iterator[tuple[int, str]]:
        """Tile and condition of each forward of a step."""
        return ((tile, name) for tile in range(self.tiles) for name in self.conditions)

    def seen(self) -> list[tuple[int, str]]:
        return [(i, f"call{j}") for i in range(self.steps) for j, _ in enumerate(self.forwards(i))]

    def text(self, name: str, i: int) -> Tensor:
        return TEXT[name]

    def run(self, module: Any) -> Tensor:
        latents = [noise(1, 4, 2, 4, 4, seed=9 + tile) for tile in range(self.tiles)]
        times = shifted(self.steps)
        for i in range(self.steps):
            made: dict[int, list[Tensor]] = {tile: [] for tile in range(self.tiles)}
            for tile, name in self.forwards(i):
                with torch.no_grad():
                    time = 1000 * times[i : i + 1].to(self.dtype)
                    made[tile].append(module(latents[tile], time, self.text(name, i), return_dict=False)[0])
            for tile, outputs in made.items():
                moved = (times[i + 1] - times[i]) * torch.cat(outputs).mean(0, keepdim=True)
                latents[tile] = latents[tile].add_(moved) if self.in_place else latents[tile] + moved
        return torch.cat(latents)


class LateGuidance(Sampler):
    """The second condition comes from the tenth step on."""

    def forwards(self, i: int) -> Iterator[tuple[int, str]]:
        return ((0, name) for name in (self.conditions if i >= 10 else self.conditions[:1]))


class OtherTexts(Sampler):
    """Each step has a text of its own."""

    def text(self, name: str, i: int) -> Tensor:
        return TEXT[name] + 0.01 * noise(1, 6, 8, seed=100 + i)


def collisions(sampler: Sampler) -> int:
    times = (1000 * shifted(sampler.steps)[:-1].to(sampler.dtype)).tolist()
    return len(times) - len(set(times))


def traced(sampler: Sampler, policy: Any) -> bwcache.Trace:
    module = wan_transformer()
    plain = sampler.run(module)
    with bwcache.attach(module, policy, steps=sampler.steps) as session:
        made = sampler.run(module)
    assert len(session.traces) == 1
    assert torch.equal(made, plain) == (session.trace.reused == 0)
    return session.trace


def rows(trace: bwcache.Trace) -> list[tuple[int, str]]:
    return [(event.step, event.branch) for event in trace.events]


TOLD = {
    "one forward": Sampler(("cond",)),
    "guidance": Sampler(),
    "tiles": Sampler(tiles=3),
    "in place": Sampler(in_place=True),
    "nothing collides": Sampler(dtype=torch.float16),
}


@pytest.mark.parametrize("sampler", TOLD.values(), ids=TOLD)
def test_steps_that_collide_are_told_by_their_latents(sampler: Sampler) -> None:
    assert collisions(sampler) == (18 if sampler.dtype == torch.bfloat16 else 0)
    trace = traced(sampler, BWCache(threshold=0))
    assert rows(trace) == sampler.seen()
    assert {event.total for event in trace.events} == {STEPS}
    assert set(reuse_line(traced(sampler, GREEDY).events)[1:]) == {"r"}


def test_nothing_but_the_latents_may_differ() -> None:
    """Guidance that begins in the middle has the same latents: it is a branch of the same step, computed at first."""
    sampler = LateGuidance()
    trace = traced(sampler, GREEDY)
    assert rows(trace) == sampler.seen()
    assert [event.action for event in trace.events if event.branch == "call1"][:2] == ["compute", "reuse"]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_where_it_cannot_be_told_the_number_of_steps_is_given_up() -> None:
    """Something else differs as well: it could be another branch."""
    sampler = OtherTexts()
    trace = traced(sampler, CAREFREE)
    assert rows(trace) != sampler.seen()
    first = next(i for i, event in enumerate(trace.events) if event.total is None)
    assert {event.action for event in trace.events[first:]} == {"compute"}
