"""The page in a real browser: it loads without a complaint, fetches nothing, plays, sorts, and fits a telephone."""

import math
import time

import pytest

from bwcache.report.html import read, write_report
from tests.report.chromium import PROGRAM, Chromium
from tests.report.comparisons import comparison_folder, run

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium or google-chrome here")

HOSTILE = [
    '<script>document.title = "hacked"</script>',
    '"><img src=x onerror="document.title=1">',
    "قطة تمشي على العشب 🐈",
]
PROMPTS = "#prompts tbody tr"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = comparison_folder(
        tmp_path_factory.mktemp("page") / "out",
        run(HOSTILE[0], psnr=35.0, uncached_seconds=100.0),
        run(HOSTILE[1], psnr=9.5),
        run(HOSTILE[2], psnr=math.inf, ssim=1.0),
    )
    write_report(folder / "report.html", read(folder))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("chromium"))
    chromium.open(page)
    yield chromium
    chromium.close()


def column(browser, index):
    return browser.run(f"[...document.querySelectorAll('{PROMPTS}')].map((row) => row.cells[{index}].textContent)")


def click_head(browser, index):
    browser.run(f"document.querySelectorAll('#prompts th button')[{index}].click()")


def test_it_loads_without_a_complaint_and_fetches_nothing_but_itself(browser, page):
    assert browser.complaints == []
    assert browser.fetched == [page.as_uri()]
    assert (
        browser.run("performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('data:')).length")
        == 0
    )


def test_hostile_prompts_are_text(browser):
    assert browser.run("[...document.querySelectorAll('.prompt h3')].map((one) => one.textContent)") == HOSTILE
    assert browser.run("document.title") == "shapes with BWCache"
    assert browser.run("document.scripts.length") == 1
    assert browser.run("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    direction = "getComputedStyle(document.querySelectorAll('.prompt h3')[{}]).direction"
    assert browser.run(direction.format(0)) == "ltr"
    assert browser.run(direction.format(2)) == "rtl"


def test_the_videos_of_a_prompt_play_in_step(browser):
    browser.run("document.querySelector('.play').click()")
    times = "[...document.querySelector('.prompt').querySelectorAll('video')].map((one) => one.currentTime)"
    deadline = time.monotonic() + 60
    while min(browser.run(times)) < 0.2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert browser.run("[...document.querySelectorAll('video')].every((one) => one.readyState >= 2)")
    assert browser.run("[...document.querySelector('.prompt').querySelectorAll('video')].every((one) => !one.paused)")
    assert browser.run("document.querySelector('.play').textContent") == "Pause"
    browser.run("document.querySelector('.play').click()")
    stopped = browser.run(times)
    assert len(stopped) == 3
    assert min(stopped) > 0
    assert max(stopped) - min(stopped) < 0.1  # less than a frame
    assert browser.run("document.querySelector('.play').textContent") == "Play"
    assert browser.run(
        "[...document.querySelectorAll('.prompt')[1].querySelectorAll('video')].every((one) => one.paused)"
    )


def test_the_slider_moves_all_videos_of_its_prompt(browser):
    browser.run(
        "const seek = document.querySelectorAll('.seek')[1]; seek.value = 500; seek.dispatchEvent(new Event('input'))"
    )
    places = (
        "[...document.querySelectorAll('.prompt')[1].querySelectorAll('video')].map((v) => v.currentTime / v.duration)"
    )
    assert browser.run(places) == pytest.approx([0.5, 0.5, 0.5], abs=0.02)


def test_tables_sort_by_number_and_by_text(browser):
    click_head(browser, 5)
    assert column(browser, 5) == ["identical", "35.0 dB", "9.5 dB"]
    click_head(browser, 5)
    assert column(browser, 5) == ["9.5 dB", "35.0 dB", "identical"]
    click_head(browser, 3)
    assert column(browser, 3) == ["13.70x", "1.37x", "1.37x"]
    assert browser.run("[...document.querySelectorAll('#prompts th')].map((one) => one.getAttribute('aria-sort'))") == [
        None, None, None, "descending", None, None, None,
    ]  # fmt: skip
    click_head(browser, 0)
    first = column(browser, 0)
    click_head(browser, 0)
    assert column(browser, 0) == first[::-1]
    assert sorted(first) == sorted(HOSTILE)


def test_the_keyboard_walks_along_the_steps(browser):
    browser.run("document.querySelector('.steps').focus()")
    for _ in range(3):
        browser.press("ArrowRight")
    why = "document.querySelector('.why').textContent"
    assert browser.run(why) == "cond, step 3: reused, reuse window (step 1 of 2)"
    browser.press("End")
    assert browser.run(why) == "cond, step 9: computed, tail guard (the last 2 steps)"
    assert browser.run("document.querySelector('.steps').getAttribute('aria-valuenow')") == "9"


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out(browser, width):
    browser.tell("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    assert browser.run("document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('.steps, .curve, .heat, .bar, video')].every((one) => {"
    inside += (
        f" const box = one.getBoundingClientRect(); return box.width > 20 && box.left >= 0 && box.right <= {width}; }})"
    )
    assert browser.run(inside)
    browser.tell("Emulation.clearDeviceMetricsOverride")


def test_dark_light_and_print(browser):
    def shown(media="", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.tell("Emulation.setEmulatedMedia", media=media, features=features)
        colours = browser.run(
            "[document.body, document.querySelector('.answer')].map((one) => getComputedStyle(one).color)"
        )
        ground = browser.run("getComputedStyle(document.body).backgroundColor")
        player = browser.run("getComputedStyle(document.querySelector('.player')).display")
        return colours[0], ground, player

    light, dark, printed = shown(), shown(scheme="dark"), shown("print", "dark")
    assert light == ("rgb(29, 33, 39)", "rgb(251, 251, 249)", "flex")
    assert dark == ("rgb(232, 234, 237)", "rgb(20, 23, 27)", "flex")
    assert printed == ("rgb(17, 17, 17)", "rgb(255, 255, 255)", "none")
    browser.tell("Emulation.setEmulatedMedia", media="", features=[])
    assert browser.complaints == []
