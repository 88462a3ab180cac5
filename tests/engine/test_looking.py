"""What policies see: the kind of their site, readings by place, nothing where nothing was measured; with timing too."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

import bwcache
from bwcache import AttachError, Decision, Observation, Policy, Site, Tap, compute, reuse
from bwcache.features import All
from bwcache.models import BlockStack
from tests import tiny
from tests.parts import with_parts
from tests.zoo.unets import svd_unet


@dataclass(frozen=True)
class Looking(Policy[None]):
    """Sites at two blocks and a part; writes down what it is told and reuses in odd steps."""

    seen: list[Observation] = field(default_factory=list)
    told: list[Observation] = field(default_factory=list)

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.site(stack.blocks[0]), stack.site(stack.parts("cross")[1]), stack.site(stack.blocks[3]))

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        return (stack.tap(0, view=All()), stack.tap(stack.parts("cross")[1], view=All()), stack.tap(3, view=All()))

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        self.seen.append(observation)
        return reuse("odd") if observation.step.index % 2 else compute("even")

    def refresh(self, observation: Observation, state: None) -> None:
        self.told.append(observation)


@pytest.mark.parametrize("timing", [False, True])
def test_observations_name_kind_and_place(timing: bool) -> None:
    pipe, policy = tiny.wan(), Looking()
    spec = with_parts(type(pipe.transformer), cross="attn2")
    with bwcache.attach(pipe, policy, spec=spec, timing=timing) as session:
        tiny.WAN.run(pipe)
    for observation in (*policy.seen, *policy.told):
        assert observation.kind == ("cross" if "attn2" in observation.site else "block")
    later = [one for one in policy.told if one.step.index == 2]
    assert [one.site for one in later[:3]] == ["blocks.0", "blocks.1.attn2", "blocks.3"]
    for one in later:
        assert one.last is not None
        assert one.last.places == ("blocks.0", "blocks.1.attn2", "blocks.3")
        assert one.last.at(one.site) == one.last[one.last.places.index(one.site)]
        assert one.last.at("blocks.2") is None
    # what the last computed forward measured is still there after a reused one
    assert all(one.last is not None for one in policy.seen if one.step.index >= 4)
    assert all(one.last is None for one in policy.told if one.step.index == 0)
    first = [event for event in session.trace.events if event.step == 0]
    assert all(event.indicator is None for event in first)


@dataclass(frozen=True)
class FirstSite(Policy[None]):
    """One site at a U-Net's first block, or all but that."""

    residual: bool

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        first, second, last = stack.blocks[0], stack.blocks[1], stack.blocks[-1]
        return (stack.site(second, last, keeps="residual") if self.residual else stack.site(first),)

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        return reuse("always")


@pytest.mark.parametrize("residual", [False, True])
def test_a_u_net_is_reused_up_to_its_end_or_not_at_all(residual: bool) -> None:
    with pytest.raises(AttachError, match="expected the output of a site that ends at a block with one stream"):
        bwcache.attach(svd_unet(), FirstSite(residual))
