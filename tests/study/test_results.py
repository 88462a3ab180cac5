"""Means, worst videos, fronts and the speedup at a PSNR: on cells made by hand, and as laws."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwcache.study import Cell, front, results, speedup_at
from bwcache.study.results import interval, mean_psnr, speedup_interval
from tests.study.cells import at, cell

speeds = st.floats(1.01, 9.0)  # who is no faster saves nothing and has no speedup
decibels = st.floats(10.0, 60.0)
rows = st.lists(st.tuples(speeds, decibels), min_size=1, max_size=8).map(
    lambda points: results(at(f"A ({place})", *point) for place, point in enumerate(points))
)


def test_means_and_worst_by_hand():
    quality = [{"psnr": 30.0, "lpips": 0.1}, {"psnr": 40.0, "lpips": 0.3}]
    cells = [
        cell(prompt="p", quality=quality[0], compute=0.5, denoise_seconds=0.5, kept_bytes=10, computed=4),
        cell(prompt="q", quality=quality[1], compute=0.7, denoise_seconds=0.7, kept_bytes=30, computed=6),
        cell(prompt="r", quality={"lpips": 0.0}, identical=True, compute=1.0, denoise_seconds=1.0, kept_bytes=None),
    ]
    (row,) = results(cells)
    assert row.mean("psnr") == 35
    assert row.worst("psnr") == 30
    assert row.worst("lpips") == 0.3
    assert row.mean("lpips") == pytest.approx(0.2)
    assert row.mean("ms_ssim") is row.worst("ms_ssim") is None
    moved = [cell(prompt=each, quality={"motion_kept": kept}) for each, kept in (("p", 0.9), ("q", 1.3), ("r", 0.8))]
    assert results(moved)[0].worst("motion_kept") == 1.3
    assert row.identical == 1
    assert row.computed == 5
    assert row.compute == pytest.approx(2.2 / 3)
    assert row.saved == pytest.approx(0.8 / 3)
    assert row.denoise_speedup == pytest.approx(3 / 2.2)
    assert row.kept_bytes == 30


def test_a_failure_is_a_row_without_figures():
    failed = Cell("B", "B (1)", {}, "p", 0, failed="not installed")
    one, other = results([failed, cell()])
    assert (one.failed, one.cells, one.denoise_speedup) == ("not installed", (), None)
    assert other.failed is None
    assert front([one, other]) == [other]
    assert speedup_at([one], 30) == (None, "")


def test_fewer_steps_compute_all_they_have():
    (row,) = results([cell("fewer steps (12)", settings={"steps": 12, "solver": None})])
    assert row.computed == 12


def test_fronts_by_hand():
    a, b, c, d = results([at("A", 2.0, 40), at("B", 3.0, 30), at("C", 2.5, 25), at("D", 3.0, 29)])
    assert front([a, b, c, d]) == [b, a]
    assert front([a, b, c, d], "ssim") == [b, a]
    assert front([a, b, c, d], "lpips", "compute") == [b, a]
    assert front([a], "ms_ssim") == []


@given(rows)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(all_rows):
    def point(row):
        return row.at("time"), row.mean("psnr")

    best = [point(row) for row in front(all_rows)]
    for row in all_rows:
        speed, psnr = point(row)
        over = [one for one in best if one[0] >= speed and one[1] >= psnr]
        assert over
        if (speed, psnr) in best:
            assert set(over) == {(speed, psnr)}


@given(rows, decibels, decibels)
def test_more_quality_is_never_faster(all_rows, one, other):
    low, high = sorted((one, other))
    fast, mark = speedup_at(all_rows, low)
    slow, _ = speedup_at(all_rows, high)
    if slow is not None:
        assert fast is not None
        assert slow <= fast * (1 + 1e-9)
    if mark == ">=":
        assert fast == max(row.at("compute") for row in all_rows)


def test_speedup_at_by_hand():
    own = results([at("A (1)", 4.0, 20), at("A (2)", 2.0, 40), at("A (3)", 1.5, 30)])
    assert speedup_at(own, 10) == (pytest.approx(4.0), ">=")
    assert speedup_at(own, 30) == (pytest.approx(3.0), "")
    assert speedup_at(own, 40) == (pytest.approx(2.0), "")
    assert speedup_at(own, 41) == (None, "")


@given(st.lists(decibels, min_size=2, max_size=9))
def test_an_interval_holds_the_mean(values):
    cells = [at("A", 2.0, value, prompt=str(place)) for place, value in enumerate(values)]
    low, high = interval(cells, mean_psnr)
    assert low - 1e-9 <= statistics.fmean(values) <= high + 1e-9
    assert min(values) <= low + 1e-9
    assert high <= max(values) + 1e-9


def test_intervals_need_videos_and_enough_of_them_that_reach_the_level():
    cells = [at("A (1)", 2.0 + place / 10, 30 + place, prompt=str(place)) for place in range(5)]
    own = results([*cells, *(at("A (2)", 1.2, 45, prompt=str(place)) for place in range(5))])
    low, high = speedup_interval(own, 35)
    assert low <= speedup_at(own, 35)[0] <= high
    assert speedup_interval(own, 46) is None
    assert interval(cells[:1], mean_psnr) is None
    assert speedup_interval(results(cells[:1]), 20) is None


def test_a_time_of_somebody_who_saved_nothing_is_no_speedup():
    (row,) = results([cell("A (1)", compute=1.0, denoise_seconds=0.8)])
    assert row.saved_nothing
    assert row.denoise_speedup == pytest.approx(1.25)
    assert row.timed_speedup is None
    assert row.at("time") is None
    assert front([row]) == []
    (untold,) = results([cell("A (1)", compute=None, reuse_rate=0.0)])
    assert untold.saved_nothing


@pytest.mark.parametrize(
    ("figures", "too_fast"),
    [
        ({"compute": 0.6, "denoise_seconds": 1 / 4.8, "reuse_rate": 0.4}, True),
        ({"compute": 0.6, "denoise_seconds": 1 / 1.7, "reuse_rate": 0.4}, False),
        ({"compute": 0.6, "denoise_seconds": 1 / 2.0, "reuse_rate": 0.4}, True),
        ({"compute": 0.6, "denoise_seconds": 1 / 2.0}, False),
        ({"compute": 0.6, "denoise_seconds": 1 / 4.8}, True),
        ({"compute": None, "denoise_seconds": 1 / 4.8}, False),
    ],
)
def test_faster_than_the_saved_work_allows_is_noise(figures, too_fast):
    (row,) = results([cell("A (1)", **figures)])
    assert row.too_fast is too_fast
    assert (row.timed_speedup is None) is too_fast
    assert row.to_json()["too_fast"] is too_fast


def test_what_differs_without_reuse_is_own_noise():
    assert results([cell("A (1)", compute=1.0, reuse_rate=0.0)])[0].own_noise
    assert not results([cell("A (1)", compute=1.0, reuse_rate=0.0, identical=True)])[0].own_noise
    assert not results([cell("A (1)", reuse_rate=0.5)])[0].own_noise
    assert not results([cell("A (1)")])[0].own_noise
