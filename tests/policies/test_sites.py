"""All blocks by what they add: where that can be laid beside what enters them, and where the first must run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import bwcache
from bwcache import AttachError, BlockStack, MagCache, Policy, Site, Tap
from bwcache.features import All
from bwcache.models import resolve
from bwcache.policies.sites import added_by_all
from tests import tiny
from tests.policies.plain import PlainStack, run
from tests.tiny import BY_NAME
from tests.zoo import PIPELINES

LATTE = next(case for case in PIPELINES if case.name == "LattePipeline")


def test_which_blocks_they_are() -> None:
    stack = resolve("transformer", tiny.wan_transformer())
    assert added_by_all(stack) == stack.whole(keeps="residual")
    assert added_by_all(stack, stack.named("modulated")) == stack.whole(keeps="residual")
    stack = resolve("transformer", tiny.cogvideox().transformer)
    site = added_by_all(stack, stack.named("modulated"))
    assert (site.first, site.since, site.keeps) == (stack.blocks[1], stack.blocks[0], "residual")
    stack = resolve("transformer", LATTE.build().transformer)
    site = added_by_all(stack)
    assert (site.first, site.last, site.since) == (stack.blocks[1], stack.blocks[-1], None)


def test_blocks_of_two_kinds_in_turn_replay_all_but_the_first() -> None:
    with bwcache.attach(pipe := LATTE.build(), MagCache((1.0,), retention=0.1)) as session:
        made = LATTE.run(pipe)
    assert session.trace.reused > 0
    assert torch.isfinite(made).all()


@dataclass(frozen=True)
class Bad(bwcache.NeverReuse):
    """Whatever a test puts there."""

    how: str = ""
    may_reuse = True  # type: ignore[assignment]

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.whole(),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        since = stack.root if self.how == "root" else stack.blocks[0]
        end = "out" if self.how == "out" else "residual"
        return (stack.tap(-1, end=end, since=since, view=All()),)


def test_what_cannot_be_is_refused_at_attach() -> None:
    for how in ("root", "out"):
        with pytest.raises(AttachError, match="expected the residual of a block since another one"):
            bwcache.attach(tiny.wan(), Bad(how=how))


class Added(PlainStack):
    """Computes everything, and takes note of how much of what all blocks add changes from step to step."""

    changes: list[float]

    def computes(self) -> bool:
        return True

    def computed(self, added: torch.Tensor) -> None:
        past = self.kept[self.branch]
        if len(past) > 1:
            new, old = past[0][1].double(), past[1][1].double()
            self.changes.append(float((new - old).abs().sum() / old.abs().sum()))


@dataclass(frozen=True)
class Watching(Policy[None]):
    """Looks at what all blocks add."""

    @property
    def feature_predictor(self) -> None:
        return None

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        return (stack.tap(-1, end="residual", since=stack.blocks[0], view=All()),)

    def init(self) -> None:
        return None

    def decide(self, observation: bwcache.Observation, state: None) -> bwcache.Decision:
        return bwcache.compute("never reuses with these settings")


@pytest.mark.parametrize("name", ["wan", "cogvideox", "hunyuan"])
def test_a_tap_sees_what_several_blocks_add(name: str) -> None:
    case = BY_NAME[name]
    other = Added(pipe := case.build(), len(case.branches))
    other.changes = []
    run(case, pipe, other)
    with bwcache.attach(pipe := case.build(), Watching()) as session:
        case.run(pipe)
    found = [event.distances[0] for event in session.trace.events if event.distances and event.distances[0]]
    assert found == pytest.approx(other.changes, rel=1e-5)
