"""DBCache: decision for decision and bit for bit what cache-dit does, and a second implementation on two lists."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import AttachError, DBCache, FirstBlock, Observation, Readings, SettingError, Step
from bwcache.study.peers.library_warnings import library_warnings
from bwcache.study.peers.restored import restored
from tests import tiny
from tests.policies.plain import PlainStack, mean_change, run
from tests.policies.proof import PATCHES, proves
from tests.tiny import BY_NAME
from tests.zoo.unets import svd_unet

STEPS = 12


@contextmanager
def cache_dit(pipe: Any, **settings: Any) -> Iterator[list[str]]:
    """cache-dit at work; what it decides, forward by forward."""
    library = pytest.importorskip("cache_dit")
    adapters = importlib.import_module("cache_dit.caching.cache_adapters")
    contexts = importlib.import_module("cache_dit.caching.cache_contexts.cache_manager")
    said: list[str] = []
    decide = contexts.CachedContextManager.can_cache

    def noted(manager: Any, *args: Any, **kwargs: Any) -> bool:
        found = decide(manager, *args, **kwargs)
        said.append("reuse" if found else "compute")
        return bool(found)

    with ExitStack() as undo:
        undo.enter_context(restored(pipe, [pipe.transformer]))
        undo.enter_context(library_warnings())
        undo.enter_context(mock.patch.object(contexts.CachedContextManager, "can_cache", noted))
        config = library.DBCacheConfig(num_inference_steps=STEPS, **settings)
        adapters.CachedAdapter.apply(pipe, cache_config=config)
        yield said


@proves(DBCache, "cache-dit")
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize(
    ("threshold", "front", "back", "warmup", "longest", "most"),
    [(0.2, 1, 0, 2, None, None), (0.6, 2, 1, 0, 2, None), (0.9, 1, 2, 3, None, 3)],
)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "ltx"])
def test_it_is_cache_dit_bit_for_bit(
    name: str, threshold: float, front: int, back: int, warmup: int, longest: int | None, most: int | None
) -> None:
    case = BY_NAME[name]
    settings = {
        "enable_separate_cfg": len(case.branches) > 1,  # it takes any Wan for one that guides in two forwards
        "Fn_compute_blocks": front,
        "Bn_compute_blocks": back,
        "residual_diff_threshold": threshold,
        "max_warmup_steps": warmup,
        "max_continuous_cached_steps": -1 if longest is None else longest,
        "max_cached_steps": -1 if most is None else most,
    }
    with cache_dit(pipe := case.build(), **settings) as said:
        expected = case.run(pipe, num_inference_steps=STEPS)
    policy = DBCache(threshold, front, back, warmup, longest, most)
    with bwcache.attach(pipe := case.build(), policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == said
    assert threshold < 0.6 or said.count("reuse") >= 2
    assert torch.equal(made, expected)


class Plain(PlainStack):
    """The method by plain patches, on a stack of two lists."""

    def __init__(self, pipe: Any, branches: int, threshold: float, front: int, warmup: int) -> None:
        super().__init__(pipe, branches)
        self.first = self.since = front
        self.threshold, self.warmup = threshold, warmup
        self.front = self.embedded = torch.empty(0)
        self.before: dict[int, Tensor] = {}

    def leaves(self, block: int, hidden: Tensor) -> None:
        if block == self.first - 1:
            self.front = hidden.clone()

    def begins(self, latents: Tensor) -> None:
        """What enters the first block is what its embedder returns."""
        if self.forwards == 0:
            self.model.x_embedder.register_forward_hook(lambda *a: setattr(self, "embedded", a[2].clone()))

    def computes(self) -> bool:
        added, before = self.front - self.embedded, self.before.get(self.branch)
        if self.step >= self.warmup and before is not None and mean_change(added, before) < self.threshold:
            return False
        self.before[self.branch] = added
        return True


@proves(DBCache, PATCHES, on=("hunyuan",))
def test_two_lists_are_one_stack() -> None:
    case = BY_NAME["hunyuan"]
    other = Plain(pipe := case.build(), 1, 0.3, 1, 2)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), DBCache(0.3, 1, 0, 2)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.line
    assert other.line.count("reuse") >= 2
    assert torch.equal(made, expected)


def test_one_block_in_front_and_none_at_the_back_is_first_block_cache() -> None:
    made = []
    for policy in (FirstBlock(0.3), DBCache(0.3, front=1, warmup=0)):
        with bwcache.attach(pipe := tiny.wan(), policy) as session:
            made.append(tiny.WAN.run(pipe))
        assert session.trace.reused > 0
    assert torch.equal(*made)


def seen(index: int, change: float | None) -> Observation:
    readings = Readings((change or 0.0,), (0.0 if change is None else 1.0,))
    return Observation(Step(0, index, None, None, None, "cond"), "blocks.1-blocks.3", look=lambda: readings)


def test_what_it_says() -> None:
    policy = DBCache(0.08, warmup=1, longest=2, most=3)
    state = policy.init()
    changes = [None, 0.1, 0.08, 0.05, 0.05, 0.05, math.nan, None, 0.01, 0.01]
    reasons = []
    for i, change in enumerate(changes):
        decision = policy.decide(seen(i, change), state)
        reasons.append(decision.reason)
        if not decision.reuses:
            policy.refresh(seen(i, change), state)
    assert reasons == [
        "warm-up (the first 1 steps)",
        "first blocks changed (0.1000 >= 0.08)",
        "first blocks changed (0.0800 >= 0.08)",
        "first blocks hardly changed (0.0500 < 0.08)",
        "first blocks hardly changed (0.0500 < 0.08)",
        "longest window (after 2 reused steps)",
        "indicator is not finite",
        "nothing to compare with yet",
        "first blocks hardly changed (0.0100 < 0.08)",
        "no more steps may be skipped (after 3 of the run)",
    ]


@pytest.mark.parametrize("never", [{"threshold": 0}, {"most": 0}], ids=str)
def test_settings_that_never_reuse_measure_nothing(never: dict[str, Any]) -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, DBCache(front=1, **never)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad", [{"threshold": -1}, {"front": 0}, {"back": -1}, {"warmup": -1}, {"longest": 0}, {"most": -1}], ids=str
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        DBCache(**bad)


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match="found 4 blocks in WanTransformer3DModel, with 8 in front and 0 at the back"):
        bwcache.attach(tiny.wan(), DBCache())
    with pytest.raises(AttachError, match="others return what they do not take in"):
        bwcache.attach(svd_unet(), DBCache(front=1))
