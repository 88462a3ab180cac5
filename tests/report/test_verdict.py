"""No speedup where nothing was reused, none that is more than possible, no PSNR of a pipeline's own noise."""

import dataclasses
import math

import pytest

from bwcache.measure.results import Comparison
from bwcache.report.files import caption
from bwcache.report.html import read, render
from bwcache.report.verdict import Verdict, own_noise_shows
from tests.report.comparisons import CACHED, ENVIRONMENT, MODEL, POLICY, comparison_folder, run
from tests.report.test_tables import comparison, comparison_table, printed, rows

NOTHING = {"reuse_rate": 0.0, "computed": 10, "reused": 0, "first_trigger": None, "ideal_denoise_speedup": 1.0}


def verdict(*runs, **setting):
    return Verdict.of(Comparison(MODEL, POLICY, ENVIRONMENT | setting, 0.9, runs).to_json())


def test_plain_figures_are_said_as_they_are():
    found = verdict(run("a"))
    assert found.plain
    assert found.headline == "1.37x as fast (1.47x in denoising), PSNR 31.2 dB, SSIM 0.950."
    assert found.remarks == ()


def test_what_is_not_denoising_is_told_with_what_it_does_to_the_speedup():
    found = verdict(run("a"), run("b"))
    assert found.division == (
        "Of the cached call 78 % is denoising, 14 % text encoding, noise and 8 % decoding, which are the same with "
        "caching: so 1.47x in denoising becomes 1.37x in all."
    )
    small = {**CACHED, "before": 0.01, "after": 0.02}
    assert verdict(run("a", cached_parts=small)).division == (
        "Of the cached call 99 % is denoising, 0 % text encoding, noise and 0 % decoding."
    )
    assert verdict(run("a", **NOTHING)).division is None
    assert verdict(run("a"), run("b", cached_parts=None)).division is None


def test_nothing_reused_gives_no_speedup():
    found = verdict(run("a", psnr=math.inf, ssim=1.0, **NOTHING))
    assert not found.plain
    assert found.headline == (
        "Nothing was reused: both sides computed every step, so there is no speedup to give; the videos are identical."
    )
    assert found.remarks == ()


def test_two_steps_are_too_few():
    found = verdict(run("a", psnr=math.inf, ssim=1.0, **NOTHING | {"steps": 2, "computed": 2}))
    assert found.remarks[0].startswith("2 steps are too few: ")


def test_nothing_reused_and_yet_different_is_not_blamed_on_the_cache():
    found = verdict(run("a", psnr=14.6, **NOTHING))
    assert "no speedup to give, and yet the videos differ" in found.headline
    assert "two calls that computed everything from one seed are 14.6 dB apart" in found.headline
    assert "not the cache's doing" in found.headline
    assert "PSNR" not in found.headline


@pytest.mark.parametrize(("noise", "holds"), [(None, True), (31.0, False), (40.0, False), (60.0, True)])
def test_a_difference_is_told_only_where_it_stands_out_of_the_noise(noise, holds):
    found = verdict(run("a", psnr=31.25), own_noise_psnr=noise)
    assert found.quality_holds is holds
    assert ("PSNR 31.2 dB" in found.headline) is holds
    assert found.headline.startswith("1.37x as fast (1.47x in denoising), ")
    assert len(found.remarks) == (noise == 60.0)


def test_one_prompt_that_reused_nothing_and_differs_casts_doubt_on_all():
    found = verdict(run("a", psnr=20.0), run("b", psnr=15.0, cached_denoise_seconds=8.4, **NOTHING))
    assert found.own_noise == 15.0
    assert not found.quality_holds
    assert found.speed_holds


def test_more_than_is_possible_is_noise_and_says_how_to_measure_again():
    fast = {"cached_denoise_seconds": 8.4 / 4.8, "ideal_denoise_speedup": 1.67}
    found = verdict(run("a", **fast))
    assert not found.plain
    assert "4.80x as fast, where this reuse allows 1.67x at most: that is noise of the clock" in found.headline
    assert found.headline.startswith("PSNR ")
    assert "--repeats 3, PSNR" not in found.headline
    assert found.headline.count("as fast") == 1
    assert "--repeats 3" in found.headline
    assert "PSNR 31.2 dB" in found.headline
    assert "with more --repeats" in verdict(run("a", **fast), repeats=5).headline
    assert verdict(run("a", cached_denoise_seconds=8.4 / 1.51)).plain, "the estimate itself is not exact"


def test_the_table_gives_no_speedup_and_no_psnr_where_nothing_was_reused():
    found = dict(rows(printed(comparison_table(comparison(*(made(psnr) for psnr in (math.inf, 14.6)))))))
    assert found["denoising speedup"] == ["-", "-", "-"]
    assert found["realised of that"] == ["-", "-", "-"]
    assert found["speedup in all"] == ["-", "-", "-"]
    assert found["PSNR"][:2] == ["identical", "own noise"]


def made(psnr):
    return dataclasses.replace(comparison(run("a", **NOTHING)).runs[0], psnr=psnr)


def test_the_storyboard_gives_none_either():
    assert caption(run("a", psnr=14.6, **NOTHING)) == (
        "nothing reused: all of 10 steps computed, what differs is the pipeline's own noise"
    )
    assert caption(run("a", psnr=math.inf, **NOTHING)).endswith("steps computed, identical")


def test_the_page_says_it_first_and_gives_none(tmp_path):
    report = read(comparison_folder(tmp_path / "one", run("a", psnr=math.inf, ssim=1.0, **NOTHING)))
    assert report.answer.startswith("Nothing was reused")
    assert report.why_not_more == []
    assert ("Speed, whole call", "-", "uncached over cached seconds") in report.figures
    page = render(report)
    assert "1.37x" not in page
    assert "nothing reused, identical" in page


@pytest.mark.parametrize(
    ("rate", "identical", "shows"), [(0.0, False, True), (0.0, True, False), (0.1, False, False), (0.1, True, False)]
)
def test_what_differs_without_reuse_is_the_pipelines_own(rate, identical, shows):
    assert own_noise_shows(rate, identical) is shows


FAST = {"cached_denoise_seconds": 2.1, "cached_seconds": 2.6}
"""4x as fast in denoising, where 1.5x is possible."""


def test_a_speed_that_is_noise_is_marked_wherever_it_stands(tmp_path):
    assert "denoising 4.00x as fast (noise of the clock), PSNR" in caption(run("a", **FAST))
    assert "noise" not in caption(run("a"))
    report = read(comparison_folder(tmp_path / "two", run("a", **FAST), run("b")))
    fast, plain = sorted(report.shown, key=lambda one: one.run["prompt"])
    assert fast.result.startswith("3.85x as fast (4.00x in denoising; more than is possible: noise of the clock), ")
    assert plain.result.startswith("1.37x as fast (1.47x in denoising), ")
    cells = [line for line in render(report).splitlines() if 'class="words"' in line]
    assert [line.count("noise") for line in sorted(cells)] == [2, 0]
