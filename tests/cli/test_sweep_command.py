"""``bwcache sweep`` on the model in the box: rows, files, going on, and bad input."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

TINY = ["--steps", "5", "--frames", "5", "--height", "16", "--width", "16", "--fewer-steps", "3"]
SMALL = ["sweep", *TINY, "--prompt", "a red circle", "--out", "out"]
GRID = ["--policy", "fixedinterval", "--grid", "interval=2,3"]
FILES = ["cells", "pareto-work.png", "pareto.png", "references", "results.csv", "results.json", "study.json"]

BEFORE_LOADING = [
    (["--policy", "anycache"], "policy 'anycache'; expected AdaCache or Adaptive or "),
    (["--grid", "threshold"], "--grid 'threshold'"),
    (["--grid", "shrink=1"], "field 'shrink'"),
    (["--grid", "threshold=a"], "threshold 'a'"),
    (["--grid", "threshold=-1"], "threshold -1"),
    (["--grid", "reuse_interval=6"], "at most the 5 steps"),
    (["--grid", "threshold=1", "--threshold", "1"], "--threshold beside --grid threshold"),
    (["--policy", "FixedInterval", "--tail-guard", "0.5"], "--tail-guard with policy FixedInterval"),
    (["--fewer-steps", "5"], "fewer than the 5 steps"),
    (["--fewer-steps", "0"], "--fewer-steps 0"),
    (["--fewer-steps", "3,many"], "--fewer-steps 'many'"),
    (["--steps", "1"], "--steps 1"),
    (["--seeds", "0"], "--seeds 0"),
    (["--prompt", "a red circle"], "the prompt 'a red circle' twice"),
    (["--out", "."], "the current folder"),
    (["--out", "thesis"], "other things than a study"),
    (["--out", "good.txt"], "a file at"),
    (["--out", "good.txt/in"], "cannot be written"),
    (["--model", "nowhere"], "no folder 'nowhere'"),
    (["--threshold", "nan"], "--threshold 'nan'"),
]


@pytest.fixture
def around(tmp_path):
    (tmp_path / "good.txt").write_text("a red circle\n")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")


def check(ended, said):
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert len(ended.lines) == 1, ended.err
    assert ended.lines[0].startswith("bwcache: found ")
    assert said in ended.lines[0]
    assert "; expected " in ended.lines[0]


@pytest.mark.parametrize(("arguments", "said"), BEFORE_LOADING, ids=lambda value: str(value)[:40])
def test_bad_input(bwcache_command, around, written, arguments, said):
    before = written()
    check(bwcache_command(*SMALL, *arguments), said)
    assert written() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a circle\n\xff\xfe\n", "line 2 of 'p.txt' that is not UTF-8"),
        (b"# one\n\na cir\x00cle\n", "'\\x00' in line 3 of 'p.txt'"),
        (b"# one\n\n", "no prompt in 'p.txt'"),
        (b"a circle\na circle\n", "the prompt 'a circle' twice"),
    ],
)
def test_bad_lines_of_a_prompt_file(bwcache_command, tmp_path, written, content, said):
    (tmp_path / "p.txt").write_bytes(content)
    check(bwcache_command("sweep", *TINY, "--prompts", "p.txt"), said)
    assert written() == ["p.txt"]


def test_a_sweep_writes_its_rows_and_goes_on(bwcache_command, tmp_path):
    first = bwcache_command(*SMALL, *GRID)
    assert first.code == 0, first.err
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    labels = ["FixedInterval (interval 2)", "FixedInterval (interval 3)"]
    fewer = ["fewer steps (3)", "fewer steps, UniPC (3)", "fewer steps, DPM++ 2M (3)"]
    results = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert {row["label"] for row in results["rows"]} == {*labels, *fewer}
    speeds = [row["timed_speedup"] or 0.0 for row in results["rows"]]
    assert speeds == sorted(speeds, reverse=True)
    assert len(results["runs"]) == 5
    assert results["best_multistep"] in ("UniPC", "DPM++ 2M")
    assert results["grid"] == {"interval": [2, 3]}
    assert set(results["fronts"]) >= {"psnr", "ssim"}
    with (out / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == [row["label"] for row in results["rows"]]
    assert {line["settings.interval"] for line in lines} == {"2", "3", ""}
    saved = {line["label"]: float(line["saved"]) for line in lines}
    assert saved["FixedInterval (interval 2)"] == saved["fewer steps (3)"] == pytest.approx(0.4)
    assert first.err.count("PSNR") == 5
    assert "5/5" in first.err
    for words in ("front", "work saved", "best multistep", "not measured: LPIPS", "the same in all rows", "pareto.png"):
        assert words in first.out

    second = bwcache_command(*SMALL, "--policy", "FixedInterval", "--grid", "interval=2,3,4")
    assert second.code == 0, second.err
    assert "6 runs, 5 of them finished" in second.err
    assert second.err.count("PSNR") == 1

    spoilt = next(path for path in (out / "cells").iterdir() if '"interval": 3' in path.read_text())
    spoilt.write_text(spoilt.read_text()[:80])
    third = bwcache_command(*SMALL, *GRID)
    assert third.code == 0, third.err
    assert f"cells/{spoilt.name} is damaged" in third.err
    assert third.err.count("PSNR") == 1
    assert f"cells/{spoilt.name} was damaged and has been made again" in third.out
    assert json.loads((out / "results.json").read_text())["damaged"] == [f"cells/{spoilt.name}"]

    before = (out / "results.json").read_text()
    for other, said in (
        (["--seed", "1"], "another seed"),
        (["--steps", "6"], "another steps"),
        (["--dtype", "bfloat16"], "another dtype"),
    ):
        ended = bwcache_command(*SMALL, *GRID, *other)
        assert ended.code == 2
        assert f"results of {said} in " in ended.lines[-1]
    assert (out / "results.json").read_text() == before


def test_more_seeds_are_more_videos(bwcache_command, tmp_path):
    assert bwcache_command(*SMALL, "--grid", "threshold=9", "--seed", "4", "--seeds", "2").code == 0
    runs = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert [run["seed"] for run in runs] == [4, 5] * 4
    assert runs[0]["quality"] != runs[1]["quality"]


def test_results_are_whole_or_not_there(bwcache_command, tmp_path, monkeypatch):
    import bwcache.report.fronts

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bwcache.report.fronts, "plot_fronts", full)
    ended = bwcache_command(*SMALL, *GRID)
    assert ended.code == 1
    assert "No space left" in ended.lines[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cells", "references", "study.json"]
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 5


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-c", "from bwcache.cli import main; main()"]
    process = subprocess.Popen(
        [*command, *SMALL, "--grid", "threshold=" + ",".join(map(str, range(1, 200)))],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    cells = tmp_path / "out" / "cells"
    deadline = time.monotonic() + 300
    while not (cells.is_dir() and len(list(cells.glob("*.json"))) >= 2) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    kept = len(list(cells.glob("*.json")))
    assert f"interrupted; {kept} of 202 runs are kept in " in err.splitlines()[-1]
    assert "the same command goes on from there" in err.splitlines()[-1]
    assert [path for path in cells.rglob("*") if path.suffix == ".part"] == []
