"""First-Block cache: decision for decision and bit for bit what diffusers' own hook does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import bwcache
from bwcache import AttachError, FirstBlock, Observation, Readings, SettingError
from tests import tiny
from tests.policies.oracle import first_block
from tests.policies.proof import proves
from tests.steps import at
from tests.tiny import BY_NAME, seeded
from tests.zoo.native import HYVideoDiffusionTransformer
from tests.zoo.unets import svd_unet


@proves(FirstBlock, "diffusers' hook")
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("threshold", [0.1, 0.3])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "hunyuan", "cogvideox", "ltx"])
def test_it_is_diffusers_hook_bit_for_bit(name: str, threshold: float) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    with first_block(pipe, threshold) as said:
        expected = case.run(pipe)
    with bwcache.attach(pipe, FirstBlock(threshold=threshold)) as session:
        made = case.run(pipe)
    assert [event.action for event in session.trace.events] == said
    assert threshold < 0.3 or said.count("reuse") >= 3
    assert torch.equal(made, expected)


def test_two_videos_at_once_decide_as_one() -> None:
    case = BY_NAME["cogvideox"]
    pipe = case.build()
    with first_block(pipe, 0.3) as said:
        expected = case.run(pipe, num_videos_per_prompt=2)
    with bwcache.attach(pipe, FirstBlock(threshold=0.3)) as session:
        made = case.run(pipe, num_videos_per_prompt=2)
    assert [event.action for event in session.trace.events] == said
    assert torch.equal(made, expected)


def decided(policy: FirstBlock, change: float | None) -> bwcache.Decision:
    readings = Readings((change or 0.0,), (0.0 if change is None else 1.0,))
    return policy.decide(Observation(at(0.5), "blocks.1-blocks.3", look=lambda: readings), None)


def test_what_it_says() -> None:
    policy = FirstBlock(threshold=0.05)
    assert [decided(policy, change).action for change in (None, 0.06, 0.05, 0.0)] == [
        "compute",
        "compute",
        "reuse",
        "reuse",
    ]
    assert decided(policy, 0.06).reason == "first block changed (0.0600 > 0.05)"
    assert decided(policy, 0.02).value == 0.02
    assert [decided(policy, bad).action for bad in (math.nan, math.inf)] == ["compute"] * 2


def test_a_threshold_of_0_never_reuses_and_measures_nothing() -> None:
    assert not FirstBlock(threshold=0).may_reuse
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, FirstBlock(threshold=0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert {event.reason for event in session.trace.events} == {"never reuses with these settings"}
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize("bad", [-0.1, math.nan, "0.1", True])
def test_bad_settings(bad: object) -> None:
    with pytest.raises(SettingError, match="threshold"):
        FirstBlock(threshold=bad)  # type: ignore[arg-type]


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match="one block in WanTransformer3DModel"):
        bwcache.attach(tiny.wan_transformer(layers=1), FirstBlock())
    with pytest.raises(AttachError, match="others return what they do not take in"):
        bwcache.attach(svd_unet(), FirstBlock())


@pytest.mark.parametrize("policy", [FirstBlock(0.3), bwcache.DBCache(0.3, 1, 1, 0)])
def test_a_stack_that_nothing_enters_and_leaves_is_refused_in_one_line(policy: bwcache.Policy[Any]) -> None:
    """Text joins the video on the way: what blocks add to either cannot be told, and nothing was ever reused."""
    found = (
        r"found a site from double_blocks\.1 \(img, txt\) to single_blocks\.[12] \(x\) of HYVideoDiffusionTransformer"
    )
    with pytest.raises(AttachError, match=found):
        bwcache.attach(seeded(HYVideoDiffusionTransformer), policy, steps=8)
