"""diffusers' own caches: two caches on one model are refused, whichever comes first.

The other order, `enable_cache` and then `attach`: `engine/test_session.py`.
"""

from __future__ import annotations

import pytest
from diffusers import FirstBlockCacheConfig

import bwcache
from bwcache import AttachError
from tests.beside.attached import CAREFREE, LINE, cached, lines, plain, same
from tests.tiny import WAN, wan


def test_another_cache_that_is_switched_on_while_attached_is_refused() -> None:
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        with pytest.raises(AttachError, match="FirstBlockCacheConfig"):
            pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=5.0))
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE]


def test_another_cache_before_and_after_a_session() -> None:
    pipe = wan()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=5.0))
    by_the_other = WAN.run(pipe)
    pipe.transformer.disable_cache()
    with bwcache.attach(pipe, CAREFREE) as session:
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE]
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=5.0))
    same(WAN.run(pipe), by_the_other)
    pipe.transformer.disable_cache()
    same(WAN.run(pipe), plain())
