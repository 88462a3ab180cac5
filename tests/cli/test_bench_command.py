"""``bwcache bench`` on the model in the box: what it writes and says, how it goes on, what it refuses."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import sys

import pytest

from tests import newer

SMALL = ["--steps", "6", "--frames", "5", "--prompt", "a red circle", "--warmup", "1", "--tail", "1"]
METHODS = "bwcache,fixed,fewer-steps,first-block,magcache,taylorseer-lite"


def cells(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}


def test_it_writes_and_prints_and_goes_on(bwcache_command, tmp_path, monkeypatch):
    newer.module("diffusers.hooks.mag_cache")
    ended = bwcache_command("bench", *SMALL, "--quick", "--methods", METHODS, "--out", "b")
    assert ended.code == 0, ended.err
    out = tmp_path / "b"
    assert {path.name for path in out.iterdir()} == {
        "study.json", "cells", "references", "magcache.json", "results.json", "results.csv", "bench.png",
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["methods"] == METHODS.split(",")
    assert results["guards"] == [{"warmup": 1, "tail": 1}]
    families = [row["family"] for row in results["rows"]]
    assert {families.count(family) for family in families} == {2}
    assert {row["family"] for row in results["rows"]} == {
        "BWCache as published", "fixed interval", "fewer steps", "First-Block Cache", "MagCache", "TaylorSeer lite",
    }  # fmt: skip
    by_label = {row["label"]: row for row in results["rows"]}
    assert by_label["TaylorSeer lite (interval 3, order 1, warmup 1, tail 1)"]["saved"] == pytest.approx(
        1 / 2, abs=0.01
    )  # 0, 2, 5
    assert by_label["fewer steps (4)"]["saved"] == pytest.approx(1 / 3, abs=0.01)
    assert all(row["kept_bytes"] is not None for row in results["rows"])
    nothing = [row["label"] for row in results["rows"] if row["saved"] < 0.005]
    assert results["saved_nothing"] == sorted(nothing, key=results["saved_nothing"].index)
    assert {(level["family"], level["psnr"], level["axis"]) for level in results["speedup_at"]} == {
        (family, level, axis) for family in families for level in (25, 30, 35, 40) for axis in ("time", "compute")
    }
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results["rows"]) == 12
    assert (out / "bench.png").stat().st_size > 20_000
    for words in ("If only the blocks' work took time", "tail laid around it", "35 dB"):
        assert words in ended.out
    assert ("saved nothing: every layer of the blocks ran" in ended.out) == bool(nothing)
    assert "WARNING" not in ended.err

    before = cells(out)
    for module in ("bwcache.study.study", "bwcache.study.peers.magcache"):
        monkeypatch.setattr(sys.modules[module], "call", lambda *_, **__: pytest.fail("a finished run is made again"))
    again = bwcache_command("bench", *SMALL, "--quick", "--methods", METHODS, "--out", "b")
    assert again.code == 0, again.err
    assert "12 runs, 12 of them finished" in again.err
    assert cells(out) == before


def test_a_peer_that_is_not_installed_has_a_row_that_says_so(bwcache_command, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    ended = bwcache_command("bench", *SMALL, "--quick", "--methods", "fixed,dbcache")
    assert ended.code == 0, ended.err
    assert "failed: found no cache-dit" in ended.out
    assert "pip install 'bwcache[peers]'" in ended.out
    rows = json.loads((tmp_path / "bwcache-bench" / "results.json").read_text())["rows"]
    assert {row["family"]: bool(row["failed"]) for row in rows} == {"fixed interval": False, "DBCache": True}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "seacache,teacache"], "found method 'teacache'; expected some of bwcache, "),
        (["--warmup", "3", "--tail", "3"], "3 steps of warm-up and a tail of 3 in a run of 6 steps"),
        (["--tail", "-1"], "found tail -1"),
        (["--warmup", "2,x"], "--warmup 'x'"),
        (["--warmup", "1,4", "--tail", "2"], "4 steps of warm-up and a tail of 2"),
        (["--prompt", "a red circle"], "the prompt 'a red circle' twice"),
        (["--seeds", "0"], "--seeds 0"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(options, words, bwcache_command, written):
    ended = bwcache_command("bench", *SMALL, *options)
    assert (ended.code, len(ended.lines)) == (2, 1), ended.err
    assert words in ended.err
    assert written() == []


def test_a_folder_of_another_seed_is_refused(bwcache_command, tmp_path):
    few = [*SMALL, "--quick", "--methods", "fixed", "--out", "b"]
    assert bwcache_command("bench", *few).code == 0
    ended = bwcache_command("bench", *few, "--seed", "1")
    assert ended.code == 2
    assert "another seed" in ended.err


def test_ctrl_c_loses_only_the_running_cell(bwcache_command, tmp_path, monkeypatch):
    few = [*SMALL, "--quick", "--methods", "fixed,fewer-steps", "--out", "b"]
    race = sys.modules.get("bwcache.study.study") or importlib.import_module("bwcache.study.study")
    call, made = race.call, []

    def interrupted(pipe, request, what, *more):
        if "fewer steps" in what:
            raise KeyboardInterrupt
        made.append(what)
        return call(pipe, request, what, *more)

    monkeypatch.setattr(race, "call", interrupted)
    ended = bwcache_command("bench", *few)
    assert ended.code == 130
    assert "interrupted; 2 of 4 runs are kept in" in ended.lines[-1]
    assert not (tmp_path / "b" / "results.json").exists()
    before = cells(tmp_path / "b")
    monkeypatch.setattr(race, "call", call)
    assert bwcache_command("bench", *few).code == 0
    after = cells(tmp_path / "b")
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
