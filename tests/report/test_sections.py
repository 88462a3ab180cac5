"""What a page shows of studies: from what their commands write, and only of the same model."""

import json

import pytest

from bwcache.errors import SettingError
from bwcache.report.html import read, render
from bwcache.report.profiles import write_profile
from bwcache.report.sections import SECTIONS
from bwcache.report.studies import write_study
from bwcache.study.folder import Cell
from bwcache.study.profile_results import BlockFigures, Profile, TimeSplit, Watched
from bwcache.study.results import results
from tests.report.comparisons import ENVIRONMENT, MODEL, comparison_folder, run

SUMMARY = {"model": MODEL, "environment": ENVIRONMENT}


def cell(label, prompt, speed, psnr, **more):
    return Cell(
        label.split(" (")[0], label, {"threshold": 1 / speed}, prompt, 0, compute=1 / speed, seconds=1.2 / speed,
        denoise_seconds=1 / speed, uncached_seconds=1.2, uncached_denoise_seconds=1.0, steps=10, computed=5,
        quality={"psnr": psnr, "ssim": psnr / 50, "lpips": None, "ms_ssim": None}, kept_bytes=4096, **more,
    )  # fmt: skip


def study(folder, model=MODEL, steps=10, **content):
    """What a sweep or a bench writes: two settings on two videos, and one that failed."""
    folder.mkdir()
    cells = [
        cell("BWCache (<0.2>)", "a", 2.0, 34.0),
        cell("BWCache (<0.2>)", "b", 2.0, 31.0),
        cell("fewer steps (5)", "a", 3.0, 24.0),
        cell("fewer steps (5)", "b", 3.0, 22.0),
        Cell("Peer", "Peer (1)", {}, "a", 0, failed="not installed"),
    ]
    more = {"study": {"model": model, "request": {"steps": steps, "height": None}}, **content}
    write_study(folder, "results", results(cells), more)
    return folder


def profiled(folder, model=MODEL):
    """What a profile writes: two videos of ten steps and three blocks, a U."""
    folder.mkdir()
    curve = [None, 0.5, 0.3, 0.1, 0.05, 0.05, 0.05, 0.1, 0.3, 0.5]
    changes = tuple((value,) * 3 for value in curve)
    split = TimeSplit(1.0, 7.0, 1.0, 0.4, 0.6, 0.1, 0.2, 9.9, 20, 1)
    blocks = tuple(BlockFigures(f"transformer/blocks.{i}", 0.01, 0.25, 10**9) for i in range(3))
    videos = tuple(Watched(prompt, 0, changes) for prompt in ("a", "b"))
    write_profile(folder, Profile(model, ENVIRONMENT | {"steps": 20}, ((None, None),) * 10, videos, blocks, split))
    return folder


def test_a_sweep(tmp_path):
    found = SECTIONS["sweep"](study(tmp_path / "s", grid={"threshold": [0.2]}), SUMMARY)
    assert found.title == "Sweep: 3 settings on 2 videos"
    assert found.lines == (
        "The fastest with a mean of at least 30 dB PSNR: BWCache (<0.2>), 2.00x as fast in denoising, 32.5 dB, the "
        "worst video 31.0 dB.",
    )
    table = found.tables[0]
    assert [name for name, _ in table.heads][:2] == ["front", "settings"]
    assert [row[1] for row in table.rows] == ["fewer steps (5)", "BWCache (<0.2>)", "Peer (1)"]
    assert [number for _, number in table.heads][:4] == [False, False, True, True]
    assert table.kinds[:3] == ("short", "words", "number")
    assert "32.5 dB" in table.rows[1]
    assert found.pictures[0][1].startswith(b"\x89PNG")
    assert any("not installed" in note for note in found.notes)


def test_a_bench(tmp_path):
    found = SECTIONS["bench"](study(tmp_path / "b", methods=["bwcache"], steps=30), SUMMARY)
    assert found.title == "Bench: 3 methods on 2 videos"
    assert found.lines[0] == "Made with other settings than the comparison: steps 30 (above: 10)."
    reached = {row[0]: row[1:] for row in found.tables[0].rows}
    assert reached["fewer steps"] == reached["Peer"] == ("-", "-", "-", "-")
    assert reached["BWCache"][0].startswith(">=2.00x")
    assert reached["BWCache"][3] == "-"


def test_a_profile(tmp_path):
    found = SECTIONS["profile"](profiled(tmp_path / "p"), SUMMARY)
    assert found.title == "Profile: 2 videos, everything computed"
    assert found.lines[0] == "Made with other settings than the comparison: steps 20 (above: 10)."
    assert found.lines[1].startswith("What to do first: ")
    assert found.folded
    assert "is a U" in found.lines[2]
    assert len(found.pictures) == 3
    assert ["blocks", "7.000", "70.0 %", "83.3 %"] in [list(row) for row in found.tables[0].rows]


def test_all_of_them_on_one_page(tmp_path):
    folder = comparison_folder(tmp_path / "out", run("a"))
    places = {
        "profile": profiled(tmp_path / "p"),
        "sweep": study(tmp_path / "s", grid={}),
        "bench": study(tmp_path / "b", methods=[]),
    }
    page = render(read(folder, studies=places))
    for title in ("Profile: 2 videos", "Sweep: 3 settings", "Bench: 3 methods"):
        assert f"<h2>{title}" in page
    assert "BWCache (&lt;0.2&gt;)" in page
    assert "BWCache (<0.2>)" not in page


@pytest.mark.parametrize(
    ("command", "make"),
    [
        ("profile", profiled),
        ("sweep", lambda folder, model: study(folder, model, grid={})),
        ("bench", lambda folder, model: study(folder, model, methods=[])),
    ],
)
def test_another_model_is_refused_and_the_difference_named(tmp_path, command, make):
    other = make(tmp_path / "other", MODEL | {"parameters": 7})
    with pytest.raises(SettingError, match=rf"a {command} of a model with parameters 7 .*comparison's, 3349664"):
        SECTIONS[command](other, SUMMARY)


@pytest.mark.parametrize("command", ["sweep", "bench", "profile"])
@pytest.mark.parametrize("content", ['{"rows": [', "[1]", "{}", '{"runs": 3, "rows": []}'])
def test_what_is_no_whole_study_is_refused(tmp_path, command, content):
    name = "profile.json" if command == "profile" else "results.json"
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingError, match=rf"^found .+; expected .*bwcache.{command}.*; "):
        SECTIONS[command](tmp_path, SUMMARY)


def test_a_bench_is_no_sweep(tmp_path):
    folder = study(tmp_path / "b", methods=[])
    with pytest.raises(SettingError, match="is not of a sweep"):
        SECTIONS["sweep"](folder, SUMMARY)


def test_a_cell_of_another_version_is_refused(tmp_path):
    folder = study(tmp_path / "s", grid={})
    content = json.loads((folder / "results.json").read_text())
    content["runs"][0]["unheard"] = 1
    (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(SettingError, match="not of a sweep"):
        SECTIONS["sweep"](folder, SUMMARY)
