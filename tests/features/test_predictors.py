"""Predictors are exact where theory says so, replay where they must, and hand out new tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bwcache import Along, Bounded, Last, Linear, Predictor, SettingError, Taylor
from bwcache.features import Extended
from tests.steps import at as at_

ALL = (Last(), Linear(), Taylor(0), Taylor(1), Taylor(2), Taylor(3))
each_predictor = pytest.mark.parametrize("predictor", ALL, ids=repr)

nodes = st.lists(st.integers(0, 20).map(lambda i: i / 20), min_size=5, max_size=5, unique=True)
coefficients = st.lists(st.integers(-8, 8).map(float), min_size=4, max_size=4)


def polynomial(coefficients: list[float], at: float) -> torch.Tensor:
    """A feature of three entries, each another polynomial in `at`; in float64, which features may be too."""
    value = sum(c * at**power for power, c in enumerate(coefficients))
    return torch.tensor([[value, -2 * value, value + at * bool(len(coefficients) > 1)]], dtype=torch.float64)


@given(st.integers(0, 3), nodes, coefficients)
def test_taylor_is_exact_on_polynomials_of_its_order(order: int, at: list[float], some: list[float]) -> None:
    some = some[: order + 1]
    past = [(at_(node), polynomial(some, node)) for node in at[: order + 1]]
    torch.testing.assert_close(Taylor(order).predict(past, at_(at[4])), polynomial(some, at[4]), rtol=1e-6, atol=1e-6)


@given(nodes, coefficients)
def test_linear_is_exact_on_lines(at: list[float], some: list[float]) -> None:
    past = [(at_(node), polynomial(some[:2], node)) for node in at[:2]]
    torch.testing.assert_close(Linear().predict(past, at_(at[4])), polynomial(some[:2], at[4]), rtol=1e-6, atol=1e-6)


@given(nodes, coefficients)
def test_taylor_of_order_1_is_linear_and_of_order_0_is_last(at: list[float], some: list[float]) -> None:
    past = [(at_(node), polynomial(some, node)) for node in at[:2]]
    torch.testing.assert_close(
        Taylor(1).predict(past, at_(at[4])), Linear().predict(past, at_(at[4])), rtol=1e-6, atol=1e-6
    )
    assert torch.equal(Taylor(0).predict(past, at_(at[4])), Last().predict(past, at_(at[4])))


@pytest.mark.parametrize("kind", [Along, Bounded, Extended])
@pytest.mark.parametrize("length", [1e300, -1e300, 101, float("nan"), "1", True])
def test_no_line_goes_further_than_can_be_meant(kind: type[Predictor], length: object) -> None:
    with pytest.raises(SettingError, match=r"found length .*; expected a number .*100; try"):
        kind(length)  # type: ignore[call-arg]
    kind(1.5)  # type: ignore[call-arg]


def test_taylor_of_too_low_an_order_is_not_exact() -> None:
    past = [(at_(node), polynomial([0, 0, 1], node)) for node in (0.5, 0.6)]
    assert not torch.allclose(Taylor(1).predict(past, at_(0.2)), polynomial([0, 0, 1], 0.2))


@each_predictor
def test_one_past_feature_is_replayed(predictor: Predictor) -> None:
    feature = torch.randn(2, 3)
    assert torch.equal(predictor.predict([(at_(0.5), feature)], at_(0.3)), feature)


@each_predictor
def test_of_coinciding_coordinates_the_newest_counts(predictor: Predictor) -> None:
    newest, older = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(predictor.predict([(at_(0.5), newest), (at_(0.5), older)], at_(0.3)), newest)


def test_taylor_uses_the_distinct_coordinates_among_its_past() -> None:
    a, b = torch.full((2,), 1.0), torch.full((2,), 2.0)
    past = [(at_(0.4), b), (at_(0.4), torch.full((2,), 77.0)), (at_(0.5), a)]
    torch.testing.assert_close(Taylor(2).predict(past, at_(0.3)), torch.full((2,), 3.0))


@each_predictor
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_never_an_alias_and_nothing_is_written(predictor: Predictor, dtype: torch.dtype, length: int) -> None:
    past = [(at_(0.9 - 0.1 * i), torch.randn(2, 3).to(dtype)) for i in range(length)]
    before = [feature.clone() for _, feature in past]
    for coordinate in (0.95, 0.9, 0.8, 0.0):
        made = predictor.predict(past, at_(coordinate))
        assert (made.dtype, made.shape) == (dtype, (2, 3))
        made.fill_(7)
        assert all(torch.equal(feature, kept) for (_, feature), kept in zip(past, before, strict=True))


@each_predictor
def test_at_the_newest_coordinate_the_newest_feature_comes_out(predictor: Predictor) -> None:
    past = [(at_(0.5 + 0.1 * i), torch.randn(2, 3)) for i in range(predictor.history)]
    torch.testing.assert_close(predictor.predict(past, at_(0.5)), past[0][1])


@each_predictor
def test_bfloat16_is_extrapolated_no_worse_than_rounding(predictor: Predictor) -> None:
    past = [(at_(0.5 + 0.1 * i), (torch.ones(4) * (3 + i)).bfloat16()) for i in range(predictor.history)]
    expected = 3.0 if predictor.history == 1 else 2.0
    torch.testing.assert_close(
        predictor.predict(past, at_(0.4)).float(), torch.full((4,), expected), rtol=0.02, atol=0.02
    )


def test_history_is_what_each_needs() -> None:
    assert [predictor.history for predictor in ALL] == [1, 2, 1, 2, 3, 4]


@pytest.mark.parametrize("order", [-1, 1.5, "2", None, True, 10, 10**400])
def test_an_order_that_cannot_work_is_refused(order: object) -> None:
    with pytest.raises(SettingError, match="order"):
        Taylor(order)  # type: ignore[arg-type]
