"""How close a predictor would have come: against plain sums, and the damping that comes of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bwcache import Damped, Last, Linear
from bwcache.features import Along, PredictionError, Predictor
from bwcache.features.prediction_error import FEWEST, MOST, PredictionSamples
from tests.steps import at


def features(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


class Judge:
    """A predictor put to the test, feature by feature."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.samples = predictor, PredictionSamples()

    def compare(self, feature: torch.Tensor, sigma: float, damping: float | None = None) -> torch.Tensor | None:
        last = None if damping is None else PredictionError(0.0, 1.0, damping, 1.0)
        return self.samples.compare(feature, at(sigma), self.predictor, last)

    @property
    def nbytes(self) -> int:
        return self.samples.nbytes


def test_a_first_feature_was_not_predicted() -> None:
    assert Judge(Last()).compare(torch.ones(1, 4, 8), 1.0) is None


def test_replay_misses_by_the_whole_change() -> None:
    old, new = features(2, 1, 4, 8)
    judge = Judge(Last())
    judge.compare(old, 1.0, 1.0)
    told = judge.compare(new, 0.9, 1.0)
    assert told is not None
    missed, size, along, square = told.tolist()
    assert missed == pytest.approx((new - old).abs().sum().item(), rel=1e-5)
    assert size == pytest.approx(new.abs().sum().item(), rel=1e-5)
    assert along == square == 0


@pytest.mark.parametrize("damping", [0.0, 0.4, 1.0])
def test_the_line_misses_by_what_is_left_after_its_damped_step(damping: float) -> None:
    first, second, third = features(3, 1, 4, 8)
    judge = Judge(Damped())
    judge.compare(first, 1.0, 1.0)
    judge.compare(second, 0.8, 1.0)
    told = judge.compare(third, 0.7, damping)
    assert told is not None
    d, e = (second - first) * 0.5, third - second
    expected = [(e - damping * d).abs().sum(), third.abs().sum(), (d * e).sum(), (d * d).sum()]
    assert told.tolist() == pytest.approx([float(value) for value in expected], rel=1e-4, abs=1e-5)


def test_a_linear_predictor_is_taken_at_its_word_whatever_the_damping() -> None:
    made = []
    for damping in (0.1, 1.0):
        judge = Judge(Linear())
        for sigma, feature in zip((1.0, 0.8, 0.7), features(3, 1, 4, 8), strict=True):
            told = judge.compare(feature, sigma, damping)
        assert told is not None
        made.append(told.tolist())
    assert made[0] == made[1]


def test_another_shape_forgets_the_past() -> None:
    judge = Judge(Last())
    judge.compare(torch.ones(1, 4, 8), 1.0, 1.0)
    assert judge.compare(torch.ones(1, 6, 8), 0.9, 1.0) is None
    assert judge.compare(torch.ones(1, 6, 8), 0.8, 1.0) is not None


@pytest.mark.parametrize(
    ("shape", "least", "most"),
    [((1, 4, 8), 32, 32), ((1, 80, 128), 400, FEWEST), ((1, 8192, 256), MOST * 0.9, MOST), ((1, 8, 0), 0, 0)],
)
def test_samples_are_few_and_as_many_as_the_predictor_reads(shape: tuple[int, ...], least: float, most: int) -> None:
    judge = Judge(Linear())
    for sigma in (1.0, 0.9, 0.8, 0.7):
        judge.compare(torch.ones(*shape, dtype=torch.bfloat16), sigma)
    assert 2 * 4 * least <= judge.nbytes <= 2 * 4 * most


@given(st.floats(-1, 2), st.integers(1, 9))
def test_the_damping_is_the_best_share_of_the_way(share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, d = torch.randn(1, 5, 9, generator=generator), torch.randn(1, 5, 9, generator=generator)
    judge = Judge(Damped())
    judge.compare(first, 1.0, 1.0)
    judge.compare(first + d, 0.9, 1.0)
    told = judge.compare(first + d + share * d, 0.8, 1.0)
    assert told is not None
    assert PredictionError(*told.tolist()).damping == pytest.approx(min(max(share, 0.0), 1.0), abs=1e-3)


def test_pooling_adds_before_it_divides() -> None:
    both = PredictionError(1.0, 10.0, 1.0, 4.0) + PredictionError(5.0, 10.0, 2.0, 2.0)
    assert both.error == pytest.approx(0.3)
    assert both.damping == pytest.approx(0.5)
    assert PredictionError(1.0, 0.0, 1.0, 0.0).damping == 0
    assert PredictionError(1.0, 1.0, float("nan"), 1.0).damping == 0


@pytest.mark.parametrize("damping", [0.0, 0.3, 1.0])
def test_damped_goes_a_part_of_the_way(damping: float) -> None:
    older, newest = features(2, 2, 3)
    past = [(at(0.8), newest), (at(1.0), older)]
    given = Damped().adapted_to(PredictionError(0.0, 1.0, damping, 1.0))
    assert given == Along(damping)
    made = given.predict(past, at(0.6))
    torch.testing.assert_close(made, newest + damping * (newest - older))
    assert made.data_ptr() != newest.data_ptr()
    torch.testing.assert_close(Damped().adapted_to(None).predict(past, at(0.6)), Linear().predict(past, at(0.6)))


def test_damped_replays_where_there_is_no_line() -> None:
    (newest,) = features(1, 2, 3)
    assert torch.equal(Damped().predict([(at(0.8), newest)], at(0.6)), newest)
    assert torch.equal(Damped().predict([(at(0.8), newest), (at(0.8), newest + 1)], at(0.6)), newest)


def test_what_is_only_checked_does_not_become_the_past() -> None:
    first, second, third = features(3, 1, 4, 8)
    samples = PredictionSamples()
    samples.compare(first, at(1.0), Last())
    samples.compare(second, at(0.9), Last(), keep=False)
    numbers = samples.compare(third, at(0.8), Last())
    assert numbers is not None
    assert numbers[0].item() == pytest.approx((third - first).abs().sum().item(), rel=1e-5)
