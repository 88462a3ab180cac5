"""A tiny Wan pipeline with a session on it, and the law for whatever else is switched on: it changes nothing in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import bwcache
from bwcache import BWCache, Session
from bwcache.core.trace import reuse_line
from tests.tiny import WAN, wan

CAREFREE = BWCache(threshold=10.0, reuse_interval=2)
"""Reuses whenever it may."""

LINE = "CCrrCrrCrC"
"""What it then does in ten steps."""

COMPUTED = 2 * LINE.count("C")
"""How often a block runs in them, in two branches."""

SwitchOn = Callable[[Any], object]


def lines(session: Session) -> list[str]:
    """What each run did, one letter per step."""
    return [reuse_line(trace.events) for trace in session.traces]


def plain(layers: int = 4) -> Tensor:
    """The latents of the pipeline as it is."""
    return WAN.run(wan(layers=layers))


def cached(layers: int = 4) -> Tensor:
    """The latents of the pipeline with a session, and nothing else."""
    pipe = wan(layers=layers)
    with bwcache.attach(pipe, CAREFREE):
        return WAN.run(pipe)


def same(made: Tensor, wanted: Tensor) -> None:
    """Bit for bit; a NaN is no result."""
    assert made.isfinite().all()
    assert torch.equal(made, wanted)


def expect_it_works(switch_on: SwitchOn) -> tuple[Tensor, Tensor]:
    """Runs a pipeline with the thing switched on before, while and between the runs of a session; all must agree.

    Returns:
        Its latents without a session, and with one.
    """
    pipe = wan()
    switch_on(pipe)
    without = WAN.run(pipe)
    assert without.isfinite().all()
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        same(WAN.run(pipe), without)
    assert lines(session) == ["C" * 10]
    with bwcache.attach(pipe, CAREFREE) as session:
        made = WAN.run(pipe)
        same(WAN.run(pipe), made)
    assert lines(session) == [LINE, LINE]
    assert not torch.equal(made, without)
    same(WAN.run(pipe), without)

    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        switch_on(pipe)
        same(WAN.run(pipe), made)
    assert lines(session) == [LINE]
    same(WAN.run(pipe), without)

    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        same(WAN.run(pipe), cached())
        switch_on(pipe)
        same(WAN.run(pipe), made)
    assert lines(session) == [LINE, LINE]
    same(WAN.run(pipe), without)
    return without, made
