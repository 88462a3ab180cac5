"""BWCache on models: decision for decision and bit for bit the paper's text on a stack that is skipped by hand."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import BWCache
from tests.policies.plain import PlainStack, run
from tests.policies.proof import PATCHES, proves
from tests.policies.test_bwcache_decisions import Numbers, Paper, pooled
from tests.tiny import BY_NAME

STEPS = 16


class Plain(PlainStack):
    """Each block's output is compared with the last computed one; what the last block returned is replayed."""

    def __init__(self, pipe: object, branches: int, policy: BWCache) -> None:
        super().__init__(pipe, branches)
        self.policy = policy
        self.outputs: dict[tuple[int, int], Tensor] = {}
        self.measured: dict[int, dict[int, list[tuple[float, float]]]] = {}

    def leaves(self, block: int, hidden: Tensor) -> None:
        key = self.branch, block
        before, self.outputs[key] = self.outputs.get(key), hidden.clone()
        if before is not None:
            numbers = float((hidden.double() - before.double()).abs().sum()), float(before.double().abs().sum())
            self.measured.setdefault(self.step, {}).setdefault(self.branch, []).append(numbers)

    def computes(self) -> bool:
        said = self.policy
        paper = Paper(STEPS, said.threshold, said.reuse_interval, said.tail_guard)
        return paper.sequence([self._indicator(step) for step in range(STEPS)])[self.step] == "C"

    def _indicator(self, step: int) -> float | None:
        """Of this branch or of both, as far as it was measured before the step that is asked for."""
        rows = self.measured.get(step, {}) if step < self.step else {}
        own = {branch: row for branch, row in rows.items() if self.policy.decision == "shared" or branch == self.branch}
        return pooled({str(branch): _numbers(row) for branch, row in own.items()}) if own else None

    def left(self) -> Tensor:
        return self.outputs[self.branch, len(self.blocks) - 1].clone()


def _numbers(row: list[tuple[float, float]]) -> Numbers:
    numerators, denominators = zip(*row, strict=True)
    return numerators, denominators


@proves(BWCache, PATCHES)
@pytest.mark.parametrize("decision", ["shared", "per_branch"])
@pytest.mark.parametrize(("threshold", "interval"), [(0.25, 2), (0.35, 0.2)])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "ltx", "hunyuan"])
def test_it_is_the_second_implementation_bit_for_bit(
    name: str, threshold: float, interval: float, decision: Literal["shared", "per_branch"]
) -> None:
    case, policy = BY_NAME[name], BWCache(threshold, interval, sample=1, decision=decision)
    other = Plain(pipe := case.build(), len(case.branches), policy)
    expected = run(case, pipe, other, num_inference_steps=STEPS)
    with bwcache.attach(pipe := case.build(), policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.line
    assert 2 <= other.line.count("reuse") < len(other.line) - 4
    assert torch.equal(made, expected)
