"""The page without a browser: what is on it, what is not, and which folders are refused."""

import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest

from bwcache.core.trace import Trace
from bwcache.errors import SettingError
from bwcache.report.files import run_folder
from bwcache.report.html import explained, is_report, read, render, seconds, write_report
from tests.report.comparisons import CACHED, ENVIRONMENT, UNCACHED, comparison_folder, event, run, trace

HOSTILE = "<script>alert(\"1\")</script> & '{{ 7 * 7 }}' 🐈"
VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """Text by tag, attributes, and whether every tag is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.attributes, self.counts = [], {}, [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return comparison_folder(
        tmp_path_factory.mktemp("html") / "out",
        run(HOSTILE, psnr=35.0),
        run("a red circle", psnr=28.0, notes=("nothing much was reused",)),
        run("a blue square", psnr=math.inf, ssim=1.0),
        command=f"bwcache compare --prompt {HOSTILE}",
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return comparison_folder(tmp_path_factory.mktemp("single") / "out", run("a"))


@pytest.fixture(scope="module")
def text(folder):
    return render(read(folder))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_section_is_there_and_text_is_text(page):
    assert page.texts["h2"] == ["The videos", "All prompts", "Where the time went", "How this was made"]
    assert page.texts["h3"][:3] == [HOSTILE, "a red circle", "a blue square"]
    assert HOSTILE in page.texts["pre"][0]
    assert page.counts["script"] == 1
    assert page.counts["video"] == 9
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(text, page):
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "poster", "action", "srcset")]
    assert len(addresses) >= 12
    assert all(value.startswith("data:") for value in addresses)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", text)


def test_the_answer_and_the_figures(page):
    answer = page.texts["p"][0]
    assert answer == (
        "The 3 videos took 30.0 s without caching and 21.9 s with it: 1.37x as fast, at 31.5 dB PSNR and 0.967 SSIM; "
        "the worst has 28.0 dB."
    )
    rows = [row.split() for row in page.texts["tr"]]
    assert ["PSNR", "of", "the", "worst28.0", "dBa", "red", "circle"] in rows
    assert any(row[:2] == ["LPIPSnot", "measuredLPIPS"] for row in rows)
    assert any("1.50x" in " ".join(row) and row[0] == "Possible" for row in rows)


def test_one_prompt_and_identical_videos_are_told_so(tmp_path):
    report = read(comparison_folder(tmp_path / "one", run("a", psnr=math.inf, ssim=1.0)))
    assert report.answer.startswith("The video took 10.0 s")
    assert report.answer.endswith("and not a pixel differs.")
    found = Page(render(report))
    assert "All prompts" not in found.texts["h2"]


def test_each_step_says_why_in_words(page):
    titles = [value for tag, name, value in page.attributes if (tag, name) == ("span", "title")]
    steps = [title for title in titles if title.startswith("step ")]
    assert len(steps) == 3 * 2 * 10
    assert steps[3] == "step 3: reused, reuse window (step 1 of 2)"
    kinds = [value for tag, name, value in page.attributes if (tag, name) == ("span", "class")]
    strip = [kind for kind in kinds if kind in ("computed", "reused", "guarded", "absent")][:10]
    assert strip == ["computed"] * 3 + ["reused"] * 2 + ["computed"] + ["reused"] * 2 + ["guarded"] * 2
    items = page.texts["li"]
    assert "reused: reuse window, steps 3-4, 6-7" in items
    assert "nothing much was reused" in items


def test_the_videos_that_differ_most_are_shown_and_weigh_what_they_weigh(folder, text):
    one = Page(render(read(folder, videos=1)))
    assert one.texts["h3"][0] == "a red circle"
    assert one.counts["video"] == 3
    assert "2 more are in the table" in " ".join(one.texts["p"])
    none = render(read(folder, videos=0))
    assert "video" not in Page(none).counts
    assert len(none) < 60_000
    files = sum((folder / run_folder(i, prompt) / f"{name}.mp4").stat().st_size
                for i, prompt in enumerate((HOSTILE, "a red circle", "a blue square"))
                for name in ("uncached", "cached", "difference"))  # fmt: skip
    assert 4 / 3 * files < len(text) < 4 / 3 * files + 100_000


def test_unknown_times_leave_their_section_out(tmp_path):
    report = read(
        comparison_folder(
            tmp_path / "unknown",
            run("a", uncached_parts=None, uncached_denoise_seconds=None, cached_denoise_seconds=None,
                ideal_denoise_speedup=None, indicator_share=None, trace=Trace({}, [event(0, "C")])),
        )
    )  # fmt: skip
    found = Page(render(report))
    assert "Where the time went" not in found.texts["h2"]
    assert "img" not in found.counts
    assert not any(value == "curve" for _, name, value in found.attributes if name == "class")


def test_why_so_many_reused_steps_save_so_little():
    """23 of 50 steps: half of the time outside of the blocks."""
    uncached = {"before": 10.0, "blocks": 50.0, "indicator": 0.0, "rest": 10.0, "between": 5.0, "after": 25.0}
    cached = {**uncached, "blocks": 27.0, "indicator": 2.0, "rest": 14.0}
    lines = explained(uncached, cached, 23 / 50)
    assert lines[0] == "46.0 % of the forwards were reused, and 17.0 % of the time was saved."
    assert "the blocks took 50.0 % of the call; 50.0 % lies outside" in lines[1]
    assert "above all decoding (25.0 s) and " in lines[1]
    assert lines[2] == "So at this reuse a call can become 1.30x as fast at best; it became 1.20x."
    assert lines[3] == "The 6.0 s between the two: the indicator took 2.0 s, rest of the denoiser took 4.0 s more."


def test_a_slower_call_is_said_to_be_slower():
    lines = explained(UNCACHED, {**CACHED, "blocks": 9.0}, 0.4)
    assert lines[0] == "40.0 % of the forwards were reused, and the calls took 21.0 % longer."


def test_times_in_words():
    assert [seconds(value) for value in (0, 0.0123, 0.5, 99.4, 600, 7200)] == [
        "0 s", "12 ms", "0.5 s", "99.4 s", "10 min", "2.0 h",
    ]  # fmt: skip


def refused(folder):
    with pytest.raises(SettingError) as error:
        read(folder)
    said = str(error.value)
    assert re.fullmatch(r"found .+; expected .+; .+", said)
    return said


def edit(folder, change):
    summary = json.loads((folder / "summary.json").read_text())
    change(summary)
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "summary.json").unlink(), "no summary.json in"),
        (lambda folder: (folder / "summary.json").write_text('{"model": {"na'), "cannot be read"),
        (lambda folder: (folder / "summary.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda folder: (folder / "summary.json").write_text("[]"), "content [], which is not an object"),
        (lambda folder: edit(folder, lambda summary: summary.pop("total")), "with no total"),
        (lambda folder: edit(folder, lambda summary: summary["total"].pop("worst_psnr")), "with no total.worst_psnr"),
        (lambda folder: edit(folder, lambda summary: summary["runs"][0].pop("speedup")), "with no runs[0].speedup"),
        (lambda folder: edit(folder, lambda summary: summary["runs"][0].update(ssim="good")), "runs[0].ssim 'good'"),
        (
            lambda folder: edit(folder, lambda summary: summary.update(runs=[])),
            "runs [], which is not",
        ),
        (lambda folder: edit(folder, lambda summary: summary.update(runs=[3])), "runs [3], which is not a list"),
        (lambda folder: (folder / "01-a" / "trace.jsonl").unlink(), "no whole results of prompt 1"),
        (lambda folder: (folder / "01-a" / "trace.jsonl").write_text("half a li"), "no whole results of prompt 1"),
        (lambda folder: (folder / "01-a" / "cached.mp4").unlink(), "no cached.mp4 in"),
        (lambda folder: (folder / "01-a" / "uncached.mp4").write_bytes(b""), "no uncached.mp4 in"),
    ],
)
def test_what_is_not_a_whole_comparison_is_refused(single, tmp_path, damage, said):
    folder = shutil.copytree(single, tmp_path / "out")
    damage(folder)
    assert said in refused(folder)


def test_no_folder_is_refused(tmp_path):
    assert "no folder" in refused(tmp_path / "nowhere")


def test_a_comparison_without_the_difference_shows_two_videos(single, tmp_path):
    folder = shutil.copytree(single, tmp_path / "out")
    (folder / "01-a" / "difference.mp4").unlink()
    assert Page(render(read(folder))).counts["video"] == 2


def test_the_page_is_written_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    write_report(target, read(folder, videos=0))
    before = target.read_text()
    assert is_report(target)
    assert not is_report(folder / "summary.json")
    assert not is_report(tmp_path / "nothing.html")
    write = type(target).write_bytes

    def full(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(target), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(target, read(folder, videos=0))
    assert target.read_text() == before
    assert list(tmp_path.iterdir()) == [target]


def test_the_trace_of_the_page_is_the_trace_of_the_run(folder):
    shown = read(folder).shown[0]
    assert [cell.kind for cell in shown.branches[0][1]][:4] == ["computed", "computed", "computed", "reused"]
    assert shown.trace.events == trace().events
    assert ENVIRONMENT["steps"] == shown.steps == 10


def test_the_page_says_who_decided_together_and_how_the_calls_divide(tmp_path):
    said = "2 of 2 ranks have parts of this video (context parallelism of transformer)"
    together = trace()
    together.meta["ranks"] = said
    report = read(comparison_folder(tmp_path / "one", run("a", trace=together), run("b")))
    assert [value for name, value in report.made if name == "ranks"] == [said]
    assert f"Ranks: {said}." in str(together.summary())
    assert together.row()["ranks"] == said
    page = render(report)
    assert said in page
    assert "Of the cached call 78 % is denoising, " in page
    assert not [name for name, _ in read(comparison_folder(tmp_path / "two", run("a"))).made if name == "ranks"]
    assert "Ranks" not in str(trace().summary())
