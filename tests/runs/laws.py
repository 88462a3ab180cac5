"""What must hold of every way to run a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import bwcache
from bwcache import BlockSpec, BWCache, Trace
from bwcache.core.trace import reuse_line
from tests.runs.witness import Forward, Witness
from tests.tiny import Case, Scripted

GREEDY = Scripted(frozenset(range(1, 1000)))
"""Reuses whatever the engine lets it."""

CAREFREE = BWCache(threshold=1e6, reuse_interval=2, tail_guard=1.0)
"""Opens a window as soon as there is a number of steps and something to compare: CCrrCrrCrr…, with a tail."""


@dataclass(frozen=True)
class Told:
    """What the pipeline did, and what a carefree policy made of it.

    Attributes:
        forwards: as the witness saw them.
        lengths: steps of each loop.
        lines: of each loop, one letter per step: C computed, r reused, m both.
        traces: of the carefree policy.
    """

    forwards: list[Forward]
    lengths: list[int]
    lines: list[str]
    traces: list[Trace]

    def branches(self) -> list[tuple[str, ...]]:
        """The branches of each step, over all loops."""
        steps = sorted({(forward.run, forward.step) for forward in self.forwards})
        return [tuple(f.branch for f in self.forwards if (f.run, f.step) == step) for step in steps]


def rows(traces: list[Trace]) -> list[tuple[int, int, str]]:
    return [(run, event.step, event.branch) for run, trace in enumerate(traces) for event in trace.events]


def totals(traces: list[Trace]) -> list[int | None]:
    """The number of steps that each loop was told to have; the same in all its rows."""
    said = [{event.total for event in trace.events} for trace in traces]
    assert all(len(totals) == 1 for totals in said), said
    return [total for totals in said for total in totals]


def same(a: Any, b: Any) -> bool:
    """Bit for bit, over lists too."""
    if isinstance(a, torch.Tensor):
        assert a.isfinite().all()
        return torch.equal(a, b)
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def run(case: Case, pipe: Any, **changes: Any) -> Any:
    """The latents, always from the same noise: some pipelines draw from the global generator too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return case.run(pipe, **changes)


def told(
    case: Case,
    pipe: Any = None,
    *,
    aside: Callable[[dict[str, Any]], bool] = lambda kwargs: False,
    spec: BlockSpec | None = None,
    **changes: Any,
) -> Told:
    """Runs a pipeline four times and checks what a session says and does against a witness.

    1. Without a session: what it did.
    2. Always computing: the same video, bit for bit, and its steps, branches and totals.
    3. Reusing wherever the engine allows it: everywhere but in another loop, size or denoiser, or after an absence.
    4. A policy that looks at the number of steps: nothing where 3. may not.
    """
    pipe = pipe or case.build()
    first, again = Witness(), Witness()
    with first.watching(pipe, aside):
        plain = run(case, pipe, **changes)
    allowed = first.may_reuse()

    with bwcache.attach(pipe, BWCache(threshold=0), spec=spec) as session:
        assert same(run(case, pipe, **changes), plain)
    assert rows(session.traces) == first.rows()
    assert totals(session.traces) == first.lengths()

    with again.watching(pipe, aside), bwcache.attach(pipe, GREEDY, spec=spec) as session:
        run(case, pipe, **changes)
    assert again.forwards == first.forwards
    assert rows(session.traces) == first.rows()
    reused = [event.action == "reuse" for trace in session.traces for event in trace.events]
    assert reused == allowed
    assert any(reused)

    with bwcache.attach(pipe, CAREFREE, spec=spec) as session:
        run(case, pipe, **changes)
    assert rows(session.traces) == first.rows()
    events = [event for trace in session.traces for event in trace.events]
    assert all(may for may, event in zip(allowed, events, strict=True) if event.action == "reuse")
    lines = [reuse_line(trace.events) for trace in session.traces]
    assert same(run(case, pipe, **changes), plain)
    return Told(first.forwards, first.lengths(), lines, session.traces)
