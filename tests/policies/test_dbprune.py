"""DBPrune: decision for decision and bit for bit what cache-dit does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch

import bwcache
from bwcache import AttachError, DBPrune, Observation, Readings, SettingError, Step
from bwcache.study.peers.library_warnings import library_warnings
from bwcache.study.peers.restored import restored
from tests import tiny
from tests.policies.proof import proves
from tests.tiny import BY_NAME
from tests.zoo.unets import svd_unet

STEPS = 10


@contextmanager
def cache_dit_pruning(pipe: Any, policy: DBPrune, branches: int) -> Iterator[list[str]]:
    """cache-dit's pruning at work; what it decides, block by block."""
    library = pytest.importorskip("cache_dit")
    from cache_dit.caching.cache_adapters import CachedAdapter
    from cache_dit.caching.cache_blocks import pattern_base

    said: list[str] = []
    decide = pattern_base.PrunedBlocks_Pattern_Base._maybe_prune

    def noted(self: Any, block: int, *args: Any, **kwargs: Any) -> bool:
        found = decide(self, block, *args, **kwargs)
        if not self._skip_prune(block):
            said.append("reuse" if found else "compute")
        return found

    config = library.DBPruneConfig(
        Fn_compute_blocks=policy.first,
        Bn_compute_blocks=policy.last,
        residual_diff_threshold=policy.threshold,
        max_warmup_steps=policy.warmup,
        num_inference_steps=STEPS,
        enable_separate_cfg=branches > 1,
        enable_dynamic_prune_threshold=policy.dynamic,
        dynamic_prune_threshold_relax_ratio=policy.relax,
    )
    noting = mock.patch.object(pattern_base.PrunedBlocks_Pattern_Base, "_maybe_prune", noted)
    with restored(pipe, [pipe.transformer]), library_warnings(), noting:
        CachedAdapter.apply(pipe, cache_config=config, calibrator_config=None)
        yield said


@proves(DBPrune, "cache-dit")
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize(
    "policy",
    [DBPrune(0.05, 1, 0, 2), DBPrune(0.2, 1, 1, 1), DBPrune(0.08, 2, 0, 3), DBPrune(0.05, 1, 0, 2, True, 1.5)],
    ids=str,
)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "ltx"])
def test_it_is_cache_dit_bit_for_bit(name: str, policy: DBPrune) -> None:
    case = BY_NAME[name]
    if policy.dynamic and len(case.branches) > 1:
        pytest.skip("cache-dit reads the first branch's changes for both")
    pipe = case.build()
    with cache_dit_pruning(pipe, policy, len(case.branches)) as said:
        expected = case.run(pipe, num_inference_steps=STEPS)
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == said
    assert torch.equal(made, expected)
    assert policy.threshold < 0.2 or {"compute", "reuse"} == set(said)


def decided(policy: DBPrune, *changes: float | None, index: int = 9) -> bwcache.Decision:
    """The last of these blocks is asked, when those before it changed by so much."""
    numerators = tuple(change or 0.0 for change in changes)
    denominators = tuple(float(change is not None) for change in changes)
    places = tuple(f"blocks.{i}" for i in range(len(changes)))
    readings = Readings(numerators, denominators, (), places)
    step = Step(0, index, 20, None, None, "cond")
    return policy.decide(Observation(step, places[-1], look=lambda: readings), None)


def test_what_it_says() -> None:
    policy = DBPrune(0.08, 0, 0, 2)
    assert [decided(policy, change).action for change in (None, 0.08, 0.0799, 0.0)] == [
        "compute",
        "compute",
        "reuse",
        "reuse",
    ]
    assert decided(policy, 0.01, index=1).reason == "warm-up (the first 2 steps)"
    assert decided(policy, 0.2, 0.01).reason == "block's input hardly changed (0.0100 < 0.08)"
    assert decided(policy, 0.1).value == 0.1
    assert [decided(policy, bad).action for bad in (math.nan, math.inf)] == ["compute"] * 2


@pytest.mark.parametrize(
    ("before", "most"),
    [
        ((), 0.08),
        ((0.1,), 0.125),  # 1.25 * .1
        ((0.1, 0.06), 0.1),
        ((0.05,), 0.08),  # below delta: delta
        ((0.2,), 0.08),  # beyond 2 delta: delta
        ((0.1, 0.0, None), 0.125),  # those that changed
        ((0.1, 0.1, 0.1, 0.1, 0.1, 9.0), 0.125),  # the first five
    ],
    ids=str,
)
def test_the_dynamic_threshold(before: tuple[float | None, ...], most: float) -> None:
    policy = DBPrune(0.08, 0, 0, 0, dynamic=True)
    assert decided(policy, *before, most * 0.999).reuses
    assert not decided(policy, *before, most * 1.001).reuses
    assert not decided(DBPrune(0.08, 0, 0, 0), *before, 0.081).reuses


def test_blocks_of_one_step_decide_differently() -> None:
    pipe = tiny.wan()
    with bwcache.attach(pipe, DBPrune(0.2, 0, 0, 2)) as session:
        tiny.WAN.run(pipe, num_inference_steps=20)
    by_step: dict[tuple[int, str], set[str]] = {}
    for event in session.trace.events:
        by_step.setdefault((event.step, event.branch), set()).add(event.action)
    assert any(actions == {"compute", "reuse"} for actions in by_step.values())


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match=r"4 blocks in WanTransformer3DModel, of which 8 \+ 0 always run"):
        bwcache.attach(tiny.wan_transformer(), DBPrune())
    with pytest.raises(AttachError, match="others return what they do not take in"):
        bwcache.attach(svd_unet(), DBPrune(first=1))


@pytest.mark.parametrize(
    "bad", [{"threshold": -1}, {"first": -1}, {"last": 0.5}, {"warmup": -1}, {"dynamic": 1}, {"relax": 0}], ids=str
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        DBPrune(**bad)
