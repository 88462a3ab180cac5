"""Weighted: sums by the rows of a list, and what becomes of them off it."""

import pytest
import torch

from bwcache import Step, Weighted

ROWS = Weighted(((0, (1.0,)), (1, (1.5, -0.5)), (4, (2.0, -1.5, 0.5))))


def past(*indices: int, dtype: torch.dtype = torch.float32) -> list[tuple[Step, torch.Tensor]]:
    return [(Step(0, i, 9, None, None, "cond"), torch.full((3,), 10.0**-i, dtype=dtype)) for i in indices]


STEP = Step(0, 5, 9, None, None, "cond")


def test_the_row_of_the_newest_step_weighs_the_last_ones() -> None:
    found = ROWS.predict(past(4, 1, 0), STEP)
    torch.testing.assert_close(found, torch.full((3,), 2.0 * 1e-4 - 1.5 * 0.1 + 0.5))
    torch.testing.assert_close(ROWS.predict(past(1, 0), STEP), torch.full((3,), 0.15 - 0.5))
    assert ROWS.history == 3


def test_what_is_missing_goes_to_the_newest() -> None:
    assert ROWS.weights((4, 1)) == (2.5, -1.5)
    assert ROWS.weights((4,)) == (1.0,)


@pytest.mark.parametrize("computed", [(4, 2, 1), (4, 3), (2, 1), (5,)])
def test_a_past_that_is_not_the_lists_is_replayed(computed: tuple[int, ...]) -> None:
    kept = past(*computed)
    found = ROWS.predict(kept, STEP)
    assert torch.equal(found, kept[0][1])
    assert found.data_ptr() != kept[0][1].data_ptr()


def test_sums_in_single_precision_and_hands_out_the_features_type() -> None:
    found = ROWS.predict(past(1, 0, dtype=torch.bfloat16), STEP)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (past(1, dtype=torch.bfloat16)[0][1].float() * 1.5 - 0.5).bfloat16())


def test_is_a_setting() -> None:
    assert hash(ROWS) == hash(Weighted(ROWS.rows))
