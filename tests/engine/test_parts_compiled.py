"""A policy that acts on parts of blocks says so where these are hidden in compiled code."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import bwcache
from bwcache import BlockStack, Site
from bwcache.core.trace import reuse_line
from tests.engine.test_living_session import steps_of
from tests.tiny import Scripted, wan_transformer


@dataclass(frozen=True)
class Attention(Scripted):
    """Each self attention is a site."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return tuple(stack.site(part) for part in stack.parts("self"))

    def taps(self, stack: BlockStack) -> tuple[bwcache.Tap, ...]:
        return ()


POLICY = Attention(frozenset({2, 3, 5}))


def test_parts_of_compiled_blocks_are_refused() -> None:
    module = wan_transformer()
    module.blocks[1].compile(backend="eager")
    with pytest.raises(bwcache.AttachError, match=r"blocks\.1\.attn1 within a compiled block.*compile the parts"):
        bwcache.attach(module, POLICY, steps=8)
    bwcache.attach(module, Scripted(frozenset({2})), steps=8).close()


def test_going_over_to_parts_of_a_compiled_whole_is_refused_and_changes_nothing() -> None:
    module = wan_transformer()
    compiled = torch.compile(module, backend="eager")
    with bwcache.attach(compiled, Scripted(frozenset({2})), steps=8) as session:
        with pytest.raises(bwcache.AttachError, match="compiled block"):
            session.use(POLICY)
        assert session.policy == Scripted(frozenset({2}))


def test_compiled_parts_are_reused_and_are_what_they_are_uncompiled() -> None:
    made: list[Any] = []
    for compile_them in (False, True):
        module = wan_transformer()
        if compile_them:
            for block in module.blocks:
                block.attn1.compile(backend="eager")
        with bwcache.attach(module, POLICY, steps=8) as session:
            made.append(steps_of(module, 8))
        assert reuse_line(session.trace.events) == "CCrrCrCC"
    assert all(map(torch.equal, *made))
