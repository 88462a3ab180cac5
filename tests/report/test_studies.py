"""Tables, files and the front of a study, from cells made by hand."""

import csv
import io
import json
import re

import pytest
from rich.console import Console

from bwcache.report.fronts import plot_fronts, series
from bwcache.report.studies import by_speed, cell_line, fronts, levels, levels_table, remarks, rows_table, write_study
from bwcache.study import Cell, results


def at(family, settings, speed, psnr, prompt="p", **more):
    quality = {"psnr": psnr, "ssim": (psnr or 100.0) / 100, "lpips": more.pop("lpips", None)}
    inside = ", ".join(f"{name} {value}" for name, value in settings.items())
    figures = {
        "compute": 1 / speed,
        "denoise_seconds": 1 / speed,
        "uncached_denoise_seconds": 1.0,
        "seconds": 1.1 / speed,
        "uncached_seconds": 1.1,
        "quality": quality,
        "kept_bytes": 2048,
    }
    return Cell(family, f"{family} ({inside})", settings, prompt, 0, **{**figures, **more})


ROWS = results(
    [
        *(at("BWCache", {"threshold": t, "predictor": p}, s, q) for t, p, s, q in (
            (0.1, "Last()", 1.5, 40.0), (0.2, "Last()", 2.0, 33.0),
            (0.1, "Linear()", 1.5, 44.0), (0.2, "Linear()", 2.0, 31.0),
        )),
        at("fewer steps", {"steps": 10, "solver": None}, 3.0, 28.0, unmeasured=("LPIPS: no weights",)),
        at("fewer steps", {"steps": 15, "solver": None}, 2.0, 30.0, notes=("look here",)),
        at("BWCache", {"threshold": 0, "predictor": "Last()"}, 1.0, None, identical=True),
        Cell("Other", "Other (1)", {}, "p", 0, failed="not installed"),
    ]
)  # fmt: skip


def printed(table):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_table_is_sorted_by_speed_and_marks_the_front():
    text = printed(rows_table(ROWS))
    speeds = [float(found) for found in re.findall(r"([\d.]+)x", text)]
    assert speeds == sorted(speeds, reverse=True)
    assert len(speeds) == len(ROWS) - 2  # one failed, one saved nothing
    marked = [line.split("│")[2].strip() for line in text.splitlines() if line.startswith("│PS")]
    assert marked == fronts(ROWS)["psnr"]
    assert (
        marked
        == [
            "fewer steps (steps 10, solver None)",
            "BWCache (threshold 0.2, predictor Last())",
            "BWCache (threshold 0.1, predictor Linear())",
        ]
        or len(marked) == 4
    )
    assert "identical" in text
    assert "LPIPS" not in text
    assert by_speed(ROWS)[-1].label == "Other (1)"


def test_a_measure_that_is_there_gets_a_column():
    rows = results([at("A", {"x": 1}, 2.0, 30.0, lpips=0.25), at("A", {"x": 2}, 3.0, 31.0, lpips=0.5)])
    text = printed(rows_table(rows))
    assert "LPIPS" in text
    assert "0.250" in text
    assert fronts(rows) == {"psnr": [rows[1].label], "ssim": [rows[1].label], "lpips": [rows[1].label, rows[0].label]}


def test_levels_are_those_of_each_family():
    found = {(one["family"], one["psnr"]): one for one in levels(ROWS)}
    assert found["fewer steps", 25.0]["bound"] == ">="
    assert found["fewer steps", 30.0]["speedup"] == pytest.approx(2.0)
    assert found["fewer steps", 35.0]["speedup"] is None
    assert found["BWCache", 40.0]["speedup"] == pytest.approx(1.5 + 0.5 * (44 - 40) / (44 - 33))
    assert found["Other", 25.0]["speedup"] is None
    text = printed(levels_table(ROWS))
    assert ">=3.00x" in text
    assert "Other" in text


def test_remarks_name_failures_reasons_and_notes_once():
    lines = remarks(ROWS)
    assert "Other (1): not installed" in lines
    assert "not measured: LPIPS: no weights" in lines
    assert "BWCache (threshold 0, predictor Last()): 1 of 1 videos identical" in lines
    assert "fewer steps (steps 15, solver None): look here" in lines
    assert any(line.startswith("BWCache (threshold 0, predictor Last()): saved nothing") for line in lines)
    assert len(lines) == 5


def test_a_finished_run_is_a_line():
    one = at("A", {"x": 1}, 2.0, 30.0, prompt="a circle")
    said = "A (x 1): 50 % of the work saved, denoising 2.00x, PSNR 30.0 dB, SSIM 0.300  [a circle, seed 0]"
    assert cell_line(one) == said
    assert "identical" in cell_line(at("A", {"x": 1}, 2.0, None, identical=True, prompt="p"))
    assert cell_line(Cell("B", "B (1)", {}, "p", 0, failed="not installed")) == "B (1): not installed"


def test_all_files_or_none(tmp_path):
    def breaks(path):
        raise RuntimeError("no ink")

    with pytest.raises(RuntimeError, match="no ink"):
        write_study(tmp_path, "results", ROWS, {}, {"front.png": breaks})
    assert list(tmp_path.iterdir()) == []
    write_study(tmp_path, "results", ROWS, {"study": 1}, {"front.png": lambda path: plot_fronts(ROWS, path, "A title")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front.png", "results.csv", "results.json"]
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content["study"] == 1
    assert [row["label"] for row in content["rows"]] == [row.label for row in by_speed(ROWS)]
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = {line["label"]: line for line in csv.DictReader(file)}
    assert set(lines) == {row.label for row in ROWS}
    assert lines["Other (1)"]["failed"] == "not installed"
    assert lines["fewer steps (steps 10, solver None)"]["psnr_front"] == "True"
    assert lines["fewer steps (steps 10, solver None)"]["settings.threshold"] == ""


def test_lines_go_along_the_ladder_and_split_by_what_else_varies():
    lines = series(ROWS)
    assert set(lines) == {"BWCache (predictor Last)", "BWCache (predictor Linear)", "fewer steps"}
    assert [row.settings["threshold"] for row in lines["BWCache (predictor Last)"]] == [0, 0.1, 0.2]
    many = results(at("A", {"x": x, "y": f"kind {y}"}, 2.0, 30.0) for x in range(2) for y in range(9))
    assert set(series(many)) == {"A"}


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[-2:], ROWS[-1:]])
def test_any_study_can_be_drawn(tmp_path, rows):
    for axis in ("time", "compute"):
        plot_fronts(rows, tmp_path / "front.png", axis=axis)
        assert (tmp_path / "front.png").stat().st_size > 5000


def test_no_speedup_is_given_for_noise_and_the_reason_is_said():
    noisy = results(
        [
            at("A", {"x": 1}, 1.67, 20.0, denoise_seconds=1 / 4.8, reuse_rate=0.4),
            at("B", {"x": 1}, 1.0, 14.6, denoise_seconds=0.8, reuse_rate=0.0),
            at("C", {"x": 1}, 2.0, 30.0),
        ]
    )
    text = printed(rows_table(noisy))
    assert "4.80x" not in text
    assert "1.25x" not in text
    assert "2.00x" in text
    assert "own noise" in text
    assert by_speed(noisy)[0].label == "C (x 1)"
    assert fronts(noisy)["psnr"] == ["C (x 1)"]
    assert {one["family"] for one in levels(noisy) if one["speedup"]} == {"C"}
    said = remarks(noisy)
    assert any(line.startswith("A (x 1): measured faster than") and "--repeats 3" in line for line in said)
    assert any(line.startswith("B (x 1): saved nothing") for line in said)
    assert "denoising -" in cell_line(noisy[0].cells[0])
    assert "own noise" in cell_line(noisy[1].cells[0])
