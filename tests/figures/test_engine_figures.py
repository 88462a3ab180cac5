"""The small benchmarks of the engine's code: frames of a forward, many sites, the start."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import bwcache
from benchmarks import frames, sites, starting
from benchmarks.paired import balanced


def run(main: Callable[..., None], *arguments: Any) -> str:
    app = typer.Typer()
    app.command()(main)
    threads = torch.get_num_threads()
    try:
        ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_frames_of_computed_and_reused_forwards(tmp_path: Path) -> None:
    out = tmp_path / "frames.json"
    shown = run(frames.main, "--steps", "10", "--functions", "--out", out)
    assert sys.getprofile() is None
    found = json.loads(out.read_text())["policies"]
    assert set(found) == set(frames.POLICIES)
    for name, actions in found.items():
        assert set(actions) == ({"compute"} if "threshold=0" in name else {"compute", "reuse"})
        assert name in shown
        assert sum(one["forwards"] for one in actions.values()) == 2 * (10 - frames.SET_UP)
        for one in actions.values():
            assert 0 < one["files"][0] <= one["files"][1] <= one["functions"] <= one["calls"][1]
    assert found["BWCache(threshold=0)"]["compute"]["calls"][1] < found["BWCache()"]["compute"]["calls"][0]


def test_a_frame_is_counted_where_it_lies() -> None:
    module = torch.nn.Identity()
    with frames.profiled(module) as found:
        bwcache.BWCache(threshold=0.1)
        module(torch.ones(1))
        module(torch.ones(1))
    first, second = found
    assert {code.co_name for code in first.functions} >= {"__post_init__", "expect"}
    assert second.calls == second.files == 0


def test_a_site_call_is_measured_for_each_number_of_sites(tmp_path: Path) -> None:
    out = tmp_path / "sites.json"
    shown = run(sites.main, "--sites", 3, "--sites", 6, "--forwards", 8, "--passes", 1, "--out", out)
    found = json.loads(out.read_text())["sites"]
    assert [cell["sites"] for cell in found] == [3, 6]
    assert all(set(cell["microseconds"]) == {"compute", "reuse"} for cell in found)
    assert len(shown.splitlines()) >= 3


def test_every_part_is_a_site_that_computes_and_reuses_in_turns() -> None:
    module = sites.Parts(2)
    with bwcache.attach(module, sites.EveryOther(), steps=4, spec=sites.row(2)) as session, torch.no_grad():
        for i in range(4):
            module(torch.ones(1, sites.TOKENS, sites.CHANNELS), float(9 - i))
    events = session.trace.events
    assert len({event.site for event in events}) == 6
    assert [event.action for event in events] == (["compute"] * 6 + ["reuse"] * 6) * 2


def test_the_start_is_measured_in_fresh_processes(tmp_path: Path) -> None:
    out = tmp_path / "starting.json"
    shown = run(starting.main, "--rounds", 2, "--out", out)
    found = json.loads(out.read_text())["cpu_seconds"]
    assert set(found) == set(starting.COMMANDS)
    assert 0 < found["python"] < found["import bwcache"] < found["bwcache --help"]
    assert all(name in shown for name in found)
    with pytest.raises(RuntimeError, match="exit code 3"):
        starting.cpu_seconds(("-c", "raise SystemExit(3)"))


def test_who_goes_first_makes_no_difference() -> None:
    """Whoever follows finds warm caches; in each two forwards on end each side follows once."""
    ratios = [1.02 * (1.1 if i % 4 in (0, 3) else 1 / 1.1) for i in range(60)]
    assert abs(statistics.median(ratios) - 1.02) > 0.004
    assert balanced(ratios) == pytest.approx(1.02)
