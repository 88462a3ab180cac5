"""The page of a tuning: what it holds, and in a real browser that its slider shows the same videos at each speed."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bwcache import Tuned
from bwcache.policies.tuned_file import TunedFile
from bwcache.report.tuned import TunedPage, is_page, render, setting, smaller, video_of
from bwcache.study.study import Video
from tests.report.chromium import PROGRAM, Chromium

STEPS = 12
SHARES = tuple(1 - step / STEPS for step in range(STEPS + 1))
COUNTS = (8, 6, 5, 4, 3, 2)
CHOSEN = 3
HOSTILE = ('<script>document.title = "hacked"</script>', '"><img src=x onerror="document.title=1">')
in_a_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium or google-chrome here")


def policy(count: int) -> Tuned:
    return Tuned(tuple(range(count)), ((1.0,),) * count, SHARES, "WanTransformer3DModel")


@functools.cache
def grey(level: float) -> bytes:
    """A video of one brightness, by which it is known on a screenshot."""
    return video_of(np.full((8, 32, 32, 3), level, np.float32), 8)


def page_of(kept: bool = True, videos: int = 4) -> TunedPage:
    quality = {"psnr": 38.1, "worst": 34.0, "interval": [35.2, 42.8], "ssim": 0.98, "calibrated_on": 3}
    quality |= {"videos": videos}
    made_for = {"model": "<b>tiny</b>", "denoiser": "Wan", "scheduler": {"class": "Euler"}, "request": {"steps": 12}}
    speed = {"computed": COUNTS[CHOSEN], "steps": STEPS, "expected": STEPS / COUNTS[CHOSEN]}
    file = TunedFile(policy(COUNTS[CHOSEN]), made_for, {**quality, "wanted": "balanced", "kept": kept}, speed)
    shown = tuple(Video(text, 0) for text in HOSTILE)
    settings = [
        setting(policy(count), (20.0 + 2 * count, 30.0 + 2 * count), (grey(count / 10), grey(count / 10)))
        for count in COUNTS
    ]
    return TunedPage(file, shown, (grey(1.0), grey(1.0)), tuple(settings), 2)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "tuned.html"
    path.write_text(render(page_of()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = Chromium(tmp_path_factory.mktemp("chromium"))
    chromium.open(page)
    yield chromium
    chromium.close()


def test_all_of_it_is_inside_and_known_again(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("data:video/mp4;base64,") == 2 * (1 + len(COUNTS))
    assert set(re.findall(r'(?:src|href)="(.{5})', text)) == {"data:"}
    assert "4 of 12 steps computed, 3x: 38.1 dB on 4 videos of prompts on which nothing was chosen" in text
    assert is_page(page)
    (tmp_path / "mine.html").write_text("mine")
    assert not is_page(tmp_path / "mine.html")
    assert "That is less than was asked for." in page_of(kept=False).answer
    assert "less than" not in page_of().answer


def test_the_second_video_is_near_the_mean_only_where_there_is_a_choice() -> None:
    assert page_of(videos=4).names == ("the worst", "nearest to the mean")
    assert page_of(videos=2).names == ("the worst", "the other one")
    assert "The other one:" in render(page_of(videos=2))


def test_large_videos_are_made_smaller_by_a_whole_factor() -> None:
    frames = np.random.default_rng(0).random((2, 7, 10, 3), dtype=np.float32)
    assert smaller(frames) is frames
    found = smaller(frames, 4)
    assert found.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(found[1, 1, 2], frames[1, 3:6, 6:9].mean(axis=(0, 1)), rtol=1e-5)


@in_a_browser
def test_it_loads_without_a_complaint_and_fetches_nothing_but_itself(browser: Any, page: Path) -> None:
    assert browser.complaints == []
    assert browser.fetched == [page.as_uri()]
    assert browser.run("[...document.querySelectorAll('h3 bdi')].map((one) => one.textContent)") == list(HOSTILE)
    assert browser.run("document.title") == "<b>tiny</b>, tuned"


SEEN = """({
  videos: [...document.querySelectorAll('video.rung')].filter((one) => getComputedStyle(one).visibility !== 'hidden')
    .map((one) => one.dataset.rung),
  told: [...document.querySelectorAll('#told > span')].filter((one) => !one.hidden).map((one) => one.textContent),
  of: [...document.querySelectorAll('.of')].filter((one) => !one.hasAttribute('hidden')).map((one) => one.dataset.rung),
  row: [...document.querySelectorAll('tr.now')].map((one) => one.cells[1].textContent),
  says: document.querySelector('#speed').getAttribute('aria-valuetext'),
  blue: [...document.querySelectorAll('.of:not([hidden]) .computed')].length,
  spoken: [...document.querySelectorAll('video.rung[aria-hidden=false]')].map((one) => one.dataset.rung),
})"""


@in_a_browser
def test_it_begins_at_the_chosen_setting_and_the_keyboard_moves_along_speed(browser: Any) -> None:
    browser.run("document.querySelector('#speed').focus()")
    for key, rung in ((None, CHOSEN), ("ArrowRight", 4), ("Home", 0), ("End", 5), ("ArrowLeft", 4)):
        if key is not None:
            browser.press(key)
        seen = browser.run(SEEN)
        assert seen["videos"] == [str(rung)] * 2 == seen["spoken"]
        assert set(seen["of"]) == {str(rung)}
        assert seen["row"] == [str(COUNTS[rung])]
        assert seen["blue"] == COUNTS[rung]
        (told,) = seen["told"]
        assert seen["says"] == told
        mean = f"a mean of {25 + 2 * COUNTS[rung]}.0 dB over 2 videos"
        assert told.startswith(f"{STEPS / COUNTS[rung]:.2f}x: {COUNTS[rung]} of 12 steps computed, {mean}")
        assert ("the one in the file" in told) is (rung == CHOSEN)


@in_a_browser
def test_what_is_shown_plays_in_step_and_goes_on_at_another_speed(browser: Any) -> None:
    shown = "[...document.querySelectorAll('video.uncached, video.rung:not(.away)')]"
    browser.run("document.querySelector('#play').click()")
    for rung in (1, 5):
        browser.run(f"speed.value = {rung}; speed.dispatchEvent(new Event('input'))")
        deadline = time.monotonic() + 60
        while not browser.run(f"{shown}.every((one) => !one.paused && one.readyState >= 2)"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    away = "[...document.querySelectorAll('video.rung.away')].every((one) => one.paused)"
    assert browser.run(away)
    browser.run("document.querySelector('#play').click()")
    assert browser.run("[...document.querySelectorAll('video')].every((one) => one.paused)")
    times = browser.run(f"{shown}.map((one) => one.currentTime)")
    assert len(times) == 4
    assert max(times) - min(times) < 0.13  # about a frame
    assert browser.complaints == []


@in_a_browser
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out(browser: Any, width: int) -> None:
    browser.tell("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    assert browser.run("document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('.row:not([hidden]) .steps, .curve, video:not(.away), input')].every("
    inside += "(one) => { const box = one.getBoundingClientRect();"
    inside += f" return box.width > 20 && box.left >= 0 && box.right <= {width}; }})"
    assert browser.run(inside)
    browser.tell("Emulation.clearDeviceMetricsOverride")
