"""MixCache (2508.12691) written twice: the step, guidance or the middle blocks are skipped, by change times impact.

The facts leave open what is compared, which of two values divides, when the interval moves and how short it can become:
read here as the policy says. An interval that is to get shorter gets no longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import bwcache
from bwcache import MixCache
from tests.policies.proof import ANOTHER, BITS, ROUNDED, proves
from tests.policies.references.measures import mean_change
from tests.policies.references.opened import Compute, Streams, blocks_of, by_policy, by_reference, close
from tests.tiny import BY_NAME

STEPS = 16
WHOLE, PARTED = ("wan", "wan_unguided", "hunyuan"), ("cogvideox", "mochi")
"""A forward of its own for each branch, or both in one, which the reference takes apart."""

STEP, GUIDANCE, BLOCKS = "step", "guidance", "blocks"


@dataclass
class Reference:
    """`choices`: what is skipped in each step, "" where nothing is; `kept`: by granularity and branch, and of when."""

    blocks: list[str]
    warmup: int
    interval: int
    longest: int
    low: float
    high: float
    impact: tuple[float, float, float]
    penalty: float = 5.0
    first: int = 1
    last: int = 1
    choices: list[str] = field(default_factory=list)
    kept: dict[tuple[str, int], tuple[int, Streams]] = field(default_factory=dict)
    changes: dict[str, dict[int, float]] = field(default_factory=dict)
    entered: dict[str, Streams] = field(default_factory=dict)
    full: int = -1
    skipped: str = ""

    def begins(self, step: int, branch: int) -> None:
        self.step, self.branch = step, branch
        if branch == 0:
            if step >= max(self.warmup, 1) and self.choices[-1] == "":
                self._moves()
            self.choices.append(self._chosen())

    def _change(self, psi: str) -> float:
        return float(np.mean(list(self.changes[psi].values())))

    def _moves(self) -> None:
        change = self._change(STEP)
        if change < self.low:
            self.interval = min(self.interval + 1, self.longest)
        elif change > self.high:
            self.interval = max(self.interval - 1, min(2, self.interval))

    def _chosen(self) -> str:
        if self.step < self.warmup or self.step - self.full >= self.interval:
            self.full = self.step
            return ""
        priority = {
            psi: self._change(psi) * impact * (self.penalty if psi == self.skipped else 1)
            for psi, impact in zip((STEP, GUIDANCE, BLOCKS), self.impact, strict=True)
            if psi in self.changes
        }
        self.skipped = min(priority, key=lambda psi: priority[psi])
        return self.skipped

    def _keep(self, psi: str, value: Streams) -> None:
        if self.choices[-1] == "" and (psi, self.branch) in self.kept:
            step, old = self.kept[psi, self.branch]
            change = mean_change(value[0], old[0]) / float(np.abs(value[0]).mean())
            self.changes.setdefault(psi, {})[self.branch] = change / (self.step - step)
        self.kept[psi, self.branch] = self.step, value

    def at(self, place: str, entering: Streams, compute: Compute) -> Streams:
        if place == "":
            return self._root(compute)
        i, end = self.blocks.index(place), len(self.blocks) - 1
        spans = {STEP: (0, end), BLOCKS: (self.first, end - self.last)}
        self.entered |= {psi: entering for psi, (start, _) in spans.items() if i == start}
        skipped = self.choices[-1]
        start, end = spans.get(skipped, (0, -1))
        if start <= i <= end:
            added = self.kept[skipped, self.branch][1]
            if i < end:
                return entering[: len(added)]
            return tuple(a + b for a, b in zip(self.entered[skipped], added, strict=False))
        left = compute()
        for psi, (start, end) in spans.items():
            if start <= i == end:
                self._keep(psi, tuple(a - b for a, b in zip(left, self.entered[psi], strict=False)))
        return left

    def _root(self, compute: Compute) -> Streams:
        if self.branch == 0:
            self.cond = compute()
            return self.cond
        if self.choices[-1] == GUIDANCE:
            return tuple(a + b for a, b in zip(self.cond, self.kept[GUIDANCE, 1][1], strict=True))
        left = compute()
        self._keep(GUIDANCE, tuple(a - b for a, b in zip(left, self.cond, strict=True)))
        return left


def letters(trace: bwcache.Trace) -> str:
    """What a run skipped in each step: s step, g guidance, b blocks, C nothing."""
    skipped: dict[int, str] = {row.step: "C" for row in trace.events}
    for row in trace.events:
        if row.action == "reuse" and row.reason != "lies in a reused site":
            skipped[row.step] = {"root": "g", "stack": "s"}.get(row.site.partition("/")[2], "b")
    return "".join(skipped.values())


SETTINGS: dict[str, tuple[Any, ...]] = {
    "shorter": (4, 3, 5, 0.05, 0.2, (1.0, 1.0, 1.0)),
    "as of one": (2, 1, 4, 0.15, 0.25, (2.0, 0.3, 2.0), 2.0, 1, 2),
    "longer": (3, 2, 4, 0.05, 0.3, (1.0, 2.0, 2.0), 1.5, 0, 2),
}


@proves(MixCache, ANOTHER, BITS, on=WHOLE)
@proves(MixCache, ANOTHER, ROUNDED, on=PARTED)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", [*WHOLE, *PARTED])
def test_policy_and_reference_decide_and_make_the_same(name: str, case: tuple[Any, ...]) -> None:
    places = blocks_of(BY_NAME[name].build().transformer)
    reference = Reference(places, *case)
    expected = by_reference(name, reference, places, STEPS)
    trace, made = by_policy(name, MixCache(*case), STEPS)
    assert letters(trace) == "".join(choice[:1] or "C" for choice in reference.choices)
    assert len(set(letters(trace))) > 1
    assert close(made, expected, 2e-6 if name in PARTED else 0)
