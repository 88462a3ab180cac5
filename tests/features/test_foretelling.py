"""How close a predictor would have come: against plain sums, and the damping that comes of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bwcache import Damped, Last, Linear
from bwcache.features.foretelling import FEWEST, MOST, Foretelling
from bwcache.policies import Foretold


def features(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def test_a_first_feature_was_not_foretold() -> None:
    assert Foretelling(Last()).compare(torch.ones(1, 4, 8), 1.0, 1.0) is None


def test_replay_misses_by_the_whole_change() -> None:
    old, new = features(2, 1, 4, 8)
    foretelling = Foretelling(Last())
    foretelling.compare(old, 1.0, 1.0)
    told = foretelling.compare(new, 0.9, 1.0)
    assert told is not None
    missed, size, along, square = told.tolist()
    assert missed == pytest.approx((new - old).abs().sum().item(), rel=1e-5)
    assert size == pytest.approx(new.abs().sum().item(), rel=1e-5)
    assert along == square == 0


@pytest.mark.parametrize("damping", [0.0, 0.4, 1.0])
def test_the_line_misses_by_what_is_left_after_its_damped_step(damping: float) -> None:
    first, second, third = features(3, 1, 4, 8)
    foretelling = Foretelling(Damped())
    foretelling.compare(first, 1.0, 1.0)
    foretelling.compare(second, 0.8, 1.0)
    told = foretelling.compare(third, 0.7, damping)
    assert told is not None
    d, e = (second - first) * 0.5, third - second
    expected = [(e - damping * d).abs().sum(), third.abs().sum(), (d * e).sum(), (d * d).sum()]
    assert told.tolist() == pytest.approx([float(value) for value in expected], rel=1e-4, abs=1e-5)


def test_a_linear_predictor_is_taken_at_its_word_whatever_the_damping() -> None:
    made = []
    for damping in (0.1, 1.0):
        foretelling = Foretelling(Linear())
        for at, feature in zip((1.0, 0.8, 0.7), features(3, 1, 4, 8), strict=True):
            told = foretelling.compare(feature, at, damping)
        assert told is not None
        made.append(told.tolist())
    assert made[0] == made[1]


def test_another_shape_forgets_the_past() -> None:
    foretelling = Foretelling(Last())
    foretelling.compare(torch.ones(1, 4, 8), 1.0, 1.0)
    assert foretelling.compare(torch.ones(1, 6, 8), 0.9, 1.0) is None
    assert foretelling.compare(torch.ones(1, 6, 8), 0.8, 1.0) is not None


@pytest.mark.parametrize(
    ("shape", "least", "most"),
    [((1, 4, 8), 32, 32), ((1, 80, 128), 400, FEWEST), ((1, 8192, 256), MOST * 0.9, MOST), ((1, 8, 0), 0, 0)],
)
def test_samples_are_few_and_as_many_as_the_predictor_reads(shape: tuple[int, ...], least: float, most: int) -> None:
    foretelling = Foretelling(Linear())
    for at in (1.0, 0.9, 0.8, 0.7):
        foretelling.compare(torch.ones(*shape, dtype=torch.bfloat16), at, 1.0)
    assert 2 * 4 * least <= foretelling.nbytes <= 2 * 4 * most


@given(st.floats(-1, 2), st.integers(1, 9))
def test_the_damping_is_the_best_share_of_the_way(share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, d = torch.randn(1, 5, 9, generator=generator), torch.randn(1, 5, 9, generator=generator)
    foretelling = Foretelling(Damped())
    foretelling.compare(first, 1.0, 1.0)
    foretelling.compare(first + d, 0.9, 1.0)
    told = foretelling.compare(first + d + share * d, 0.8, 1.0)
    assert told is not None
    assert Foretold(*told.tolist()).damping == pytest.approx(min(max(share, 0.0), 1.0), abs=1e-3)


def test_pooling_adds_before_it_divides() -> None:
    both = Foretold(1.0, 10.0, 1.0, 4.0) + Foretold(5.0, 10.0, 2.0, 2.0)
    assert both.error == pytest.approx(0.3)
    assert both.damping == pytest.approx(0.5)
    assert Foretold(1.0, 0.0, 1.0, 0.0).damping == 0
    assert Foretold(1.0, 1.0, float("nan"), 1.0).damping == 0


@pytest.mark.parametrize("damping", [0.0, 0.3, 1.0])
def test_damped_goes_a_part_of_the_way(damping: float) -> None:
    older, newest = features(2, 2, 3)
    past = [(0.8, newest), (1.0, older)]
    made = Damped().predict(past, 0.6, damping)
    torch.testing.assert_close(made, newest + damping * (newest - older))
    assert made.data_ptr() != newest.data_ptr()
    torch.testing.assert_close(Damped().predict(past, 0.6), Linear().predict(past, 0.6))


def test_damped_replays_where_there_is_no_line() -> None:
    (newest,) = features(1, 2, 3)
    assert torch.equal(Damped().predict([(0.8, newest)], 0.6, 1.0), newest)
    assert torch.equal(Damped().predict([(0.8, newest), (0.8, newest + 1)], 0.6, 1.0), newest)
