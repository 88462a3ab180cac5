"""QuantCache's HLC (2503.06545) written twice: change per planned step times motion between frames, three rates.

The printed rule names neither its thresholds nor what its gradient is taken of; both sides read it as the policy says:
one attention's relative change, and the share of the output that differs from frame to frame.
"""

from __future__ import annotations

import numpy as np
import pytest

from bwcache import HierarchicalLatentCache
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.measures import relative_l1
from tests.policies.references.test_adacache import Lane
from tests.policies.references.test_adacache import Reference as AdaCache
from tests.policies.references.toy import Array


class Reference(AdaCache):
    """As AdaCache, but for what the rate is looked up by."""

    def _rate(self, lane: Lane, feature: Array, output: Array, step: int) -> int:
        assert lane.feature is not None
        later, sooner = output[:, :, 1:], output[:, :, :-1]
        moved = np.abs(later - sooner).sum() / (np.abs(later).sum() + np.abs(sooner).sum())
        change = relative_l1(feature, lane.feature) / lane.rate * moved
        return self.rates[sum(change >= threshold for threshold in self.thresholds)]


@proves(HierarchicalLatentCache, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", [(20, (0.05, 0.12), (6, 3, 1)), (24, (0.04, 0.08), (4, 2, 1))], ids=["long", "short"])
def test_policy_and_reference_decide_and_make_the_same(
    case: tuple[int, tuple[float, ...], tuple[int, ...]],
) -> None:
    steps, thresholds, rates = case
    reference = Reference(steps, thresholds, rates, moreg=False)
    expected = toy.sampled(reference.denoise, steps)
    trace, played = toy.by_policy(HierarchicalLatentCache(thresholds, rates), steps)
    for branch in toy.BRANCHES:
        assert toy.mixed(reference.lanes[branch].letters)
        assert toy.decisions(trace, branch) == reference.lanes[branch].letters
    assert toy.close(played, expected)
