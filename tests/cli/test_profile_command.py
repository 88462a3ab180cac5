"""The command on the model in the box: what it writes, says, refuses, and how it goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from bwcache.study.profile_results import Profile

SMALL = ["--steps", "3", "--frames", "5", "--prompt", "a red circle", "--shares-on", "0", "--repeats", "1"]
FILES = {"study.json", "profile.json", "profile.csv", "profile.txt", "heatmap.png", "curve.png", "latency.png"}
BAD = [
    (["--shares-on", "-1"], "--shares-on -1"),
    (["--seeds", "0"], "--seeds 0"),
    (["--repeats", "0"], "--repeats 0"),
    (["--steps", "0"], "--steps 0"),
    (["--threshold", "0.1"], "--threshold"),
    (["--out", "."], "the current folder"),
    (["--out", "thesis"], "other things than a study"),
    (["--model", "./nowhere"], "no folder './nowhere'"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_bad_input(bwcache_command, tmp_path, written, arguments, said):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    before = written()
    ended = bwcache_command("profile", *arguments)
    assert (ended.code, ended.out, len(ended.lines)) == (2, "", 1), ended.err
    assert said in ended.err
    assert "; expected " in ended.err
    assert written() == before


def test_writes_says_and_goes_on(bwcache_command, tmp_path):
    ended = bwcache_command("profile", *SMALL, "--out", "deep/out")
    assert ended.code == 0, ended.err
    out = tmp_path / "deep" / "out"
    assert {path.name for path in out.iterdir() if path.is_file()} == FILES
    content = json.loads((out / "profile.json").read_text(), parse_constant=pytest.fail)
    found = Profile.from_json(content)
    assert found.model["name"] == "shapes"
    assert len(found.videos) == 1
    assert found.changes.shape == (1, 3, 12)
    assert np.isfinite(found.changes[0, 1:]).all()
    rows = list(csv.reader((out / "profile.csv").open(newline="")))
    assert len(rows) == 1 + 3
    assert rows[0][-1] == "transformer/blocks.11"
    assert "1/3  a red circle, seed 0: changes, all entries" in ended.err
    assert ended.out.startswith("What to do first: ")
    assert len(ended.out.splitlines()) <= 8
    for words in ("blocks", "neither", "How few blocks: 1 video cannot tell", "save at most", "deep/out/profile.txt"):
        assert words in ended.out
    assert "BWCache(blocks=" not in ended.out
    for words in ("decoding", "guidance, scheduler", "GFLOP", "rank corr."):
        assert words in (out / "profile.txt").read_text()
    for name in ("heatmap.png", "curve.png", "latency.png"):
        with Image.open(out / name) as picture:
            assert len(picture.convert("RGB").getcolors(10**6)) > 20

    kept = {path: path.stat().st_mtime_ns for path in (out / "profile").iterdir()}
    again = bwcache_command("profile", *SMALL, "--out", "deep/out")
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "profile").iterdir()} == kept
    assert again.out == ended.out

    other = bwcache_command("profile", *SMALL, "--seed", "1", "--out", "deep/out")
    assert other.code == 2
    assert "seed" in other.err
    assert "(0)" in other.err


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    command = [sys.executable, "-c", "from bwcache.cli import main; main()", "profile", "--out", "out", "--frames", "5"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 300
    while not list(tmp_path.glob("out/profile/*.json")) and time.monotonic() < until:
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert out == ""
    assert "the same command goes on" in err.splitlines()[-1]
    assert not list(tmp_path.glob("out/**/*.part"))
    assert not (tmp_path / "out" / "profile.json").exists()
