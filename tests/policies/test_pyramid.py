"""Pyramid Attention Broadcast: decision for decision and bit for bit what diffusers' own hooks do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bwcache
from bwcache import Observation, Part, PyramidAttentionBroadcast, SettingError, Step
from bwcache.models import BlockSpec
from tests import tiny
from tests.parts import with_parts
from tests.policies.oracle import pyramid
from tests.policies.proof import proves
from tests.tiny import BY_NAME

BOTH = ("hidden_states", "encoder_hidden_states")
SPLIT: dict[str, str | Part] = {"self": "attn1", "cross": "attn2"}
PARTS: dict[str, dict[str, str | Part]] = {
    "wan": SPLIT,
    "wan_unguided": SPLIT,
    "ltx": SPLIT,
    "cogvideox": {"joint": Part("attn1", BOTH)},
    "hunyuan": {"joint": Part("attn", BOTH)},
    "mochi": {"joint": Part("attn1", BOTH)},
}


def spec_of(pipe: Any, name: str) -> BlockSpec:
    return with_parts(type(pipe.transformer), **PARTS[name])


@proves(PyramidAttentionBroadcast, "diffusers' hooks, with a state for each branch")
@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 1) for name in PARTS), ("wan", 2), ("cogvideox", 2), ("hunyuan", 2)]
)
def test_it_is_diffusers_hooks_bit_for_bit(name: str, batch: int) -> None:
    case, alike = BY_NAME[name], name == "ltx"  # diffusers takes LTX-Video's cross attention to be spatial
    pipe = case.build()
    cross, window, wide = (2, (100, 800), (100, 800)) if alike else (3, (100, 800), (50, 901))
    with pyramid(
        pipe,
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=cross,
        spatial_attention_timestep_skip_range=window,
        cross_attention_timestep_skip_range=wide,
    ) as said:
        expected = case.run(pipe, num_videos_per_prompt=batch)
    policy = PyramidAttentionBroadcast(2, 4, cross, window, window, wide)
    with bwcache.attach(pipe, policy, spec=spec_of(pipe, name)) as session:
        made = case.run(pipe, num_videos_per_prompt=batch)
    done: dict[str, list[str]] = {}
    for event in session.trace.events:
        if not event.sample:
            done.setdefault(event.site.partition("/")[2], []).append(event.action)
    refined = {site for site in said if "refiner" in site}  # outside of the blocks: its attention sees the text alone
    assert done == {site: row for site, row in said.items() if site not in refined}
    assert all("reuse" in row for row in done.values())
    assert torch.equal(made, expected)


def decided(policy: PyramidAttentionBroadcast, kind: str, index: int, timestep: float | None) -> str:
    step = Step(0, index, 20, timestep, None, "cond")
    return policy.decide(Observation(step, f"blocks.0.{kind}", kind=kind), None).reason


def test_each_kind_has_its_own_range_and_window() -> None:
    policy = PyramidAttentionBroadcast(2, 3, 4, (100, 800), (200, 700), (300, 600))
    lines = {
        kind: "".join(decided(policy, kind, i, 950.0 - 50 * i)[0] for i in range(19))
        for kind in ("self", "joint", "temporal", "cross")
    }
    # timesteps 950, 900, … 50: (o)utside the window, (b)roadcast over or (b)roadcast
    assert lines["self"] == lines["joint"] == "oooo" + "b" * 13 + "oo"
    assert lines["temporal"] == "oooooo" + "b" * 9 + "oooo"
    assert lines["cross"] == "oooooooo" + "b" * 5 + "oooooo"
    assert decided(policy, "cross", 8, 550.0) == "broadcast over (every 4 steps)"
    assert decided(policy, "cross", 9, 500.0) == "broadcast (step 1 of 4)"
    assert decided(policy, "temporal", 9, 500.0) == "broadcast over (every 3 steps)"
    assert decided(policy, "self", 2, 800.0) == "outside the window (timestep 800, 100 to 800)"
    assert decided(policy, "self", 3, None) == "timestep unknown"


def test_ranges_of_1_never_reuse() -> None:
    policy = PyramidAttentionBroadcast(1, 1, 1)
    assert not policy.may_reuse
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, policy, spec=spec_of(pipe, "wan")) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [{"spatial": 0}, {"cross": 1.5}, {"temporal": True}, {"cross_window": (800, 100)}, {"spatial_window": (1, 2, 3)}],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        PyramidAttentionBroadcast(**bad)


def test_a_model_without_parts_says_so() -> None:
    spec = with_parts(type(tiny.wan_transformer()))
    with pytest.raises(SettingError, match="parts of kind 'self' of WanTransformer3DModel"):
        bwcache.attach(tiny.wan_transformer(), PyramidAttentionBroadcast(), spec=spec)
