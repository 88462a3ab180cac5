"""Differences: exact on polynomials where the gaps are equal, worked numbers where they are not."""

from __future__ import annotations

import pytest
import torch

from bwcache import SettingError, Step
from bwcache.features.differences import Differences, weights


def at(index: int) -> Step:
    return Step(0, index, None, None, None, "cond")


@pytest.mark.parametrize("order", [0, 1, 2])
def test_weights_add_up_to_one(order: int) -> None:
    for contraction in (None, 0.5):
        assert sum(weights((9, 6, 2)[: order + 1], 11, contraction)) == pytest.approx(1.0)


def test_worked_numbers() -> None:
    """F = 2 at 0, 5 at 1, 9 at 4: D1 = 4 / 3 (and 3 the time before), D2 = (4/3 - 3) / 3 = -5 / 9; two steps on."""
    past = [(at(4), torch.tensor([9.0])), (at(1), torch.tensor([5.0])), (at(0), torch.tensor([2.0]))]
    line, curve = 9 + 2 * 4 / 3, -5 / 9
    assert Differences(1).predict(past, at(6)).item() == pytest.approx(line, rel=1e-6)
    assert Differences(2).predict(past, at(6)).item() == pytest.approx(line + curve * 4 / 2, rel=1e-6)
    # Hermite at x = .5 * 2: .5 * 2x = 1, .25 * (4 x^2 - 2) = .5
    assert Differences(2, 0.5).predict(past, at(6)).item() == pytest.approx(9 + 4 / 3 + curve * 0.5 / 2, rel=1e-6)


def test_equal_gaps_of_one_are_exact_on_a_line_and_keep_the_dtype() -> None:
    past = [(at(i), torch.full((2,), 3.0 * i, dtype=torch.bfloat16)) for i in (3, 2)]
    found = Differences(1).predict(past, at(5))
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [15.0, 15.0]


def test_one_feature_is_replayed_as_a_copy() -> None:
    feature = torch.ones(3)
    found = Differences(3).predict([(at(2), feature)], at(4))
    assert torch.equal(found, feature)
    assert found.data_ptr() != feature.data_ptr()


@pytest.mark.parametrize("bad", [{"order": 10}, {"order": 1.0}, {"contraction": 0}, {"contraction": 2}], ids=str)
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        Differences(**bad)  # type: ignore[arg-type]
