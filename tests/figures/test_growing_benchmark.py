"""The benchmark of growing: it runs, tiny, and says what it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import growing
from benchmarks.page import result


def test_it_runs_tiny_and_has_every_place(tmp_path: Path) -> None:
    app = growing.typer.Typer()
    app.command()(growing.main)
    out = tmp_path / "growing.json"
    asked = ["--tokens", "64", "--tokens", "128", "--blocks", "3", "--blocks", "5", "--batch", "1", "--batch", "2"]
    threads = torch.get_num_threads()
    try:
        ended = CliRunner().invoke(app, ["--forwards", "8", *asked, "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    assert ended.exit_code == 0, ended.output
    found = json.loads(out.read_text())
    assert [cell["tokens"] for cell in found["tokens"]] == [64, 128, growing.TOKENS]
    assert [cell["blocks"] for cell in found["blocks"]] == [3, 5, growing.BLOCKS]
    assert [cell["batch"] for cell in found["batch"]] == [1, 2]
    assert set(found["lines"]) == set(growing.SIDES)
    for cell in [*found["tokens"], *found["blocks"], *found["batch"]]:
        assert all(taken > 0 for taken in cell["seconds"].values())
    assert found["environment"]["packages"]["torch"] == torch.__version__


def test_copies_and_sums_are_taken_away_where_they_are_made() -> None:
    taken = {"no session": 1.0, "never reuses": 2.0, "measures": 3.0, "computes and keeps": 9.0, "reuses": 7.0}
    assert growing.cost({**taken, "copy": 2.0, "sum": 1.0}) == {
        "never reuses": 1.0,
        "measures": 2.0,
        "computes and keeps": 5.0,
        "reuses": 4.0,
    }


def test_a_line_is_told_by_its_slope() -> None:
    cells = [
        {"tokens": growing.TOKENS, "blocks": n, "batch": 1, "cost": dict.fromkeys(growing.SIDES, (50 + 2 * n) * 1e-6)}
        for n in (6, 12, 60)
    ]
    line = growing.lines(cells)["reuses"]
    assert line["microseconds_per_block"] == pytest.approx(2)
    assert line["microseconds_per_step"] == pytest.approx(50)
    assert line["highest_per_block"] == pytest.approx(62 / 6)


def test_the_sides_do_what_they_are_called() -> None:
    import bwcache

    latents = torch.ones(1, growing.TOKENS, growing.CHANNELS)
    for side, policy in growing.SIDES.items():
        module = growing.Chain(3)
        with bwcache.attach(module, policy, steps=growing.STEPS, spec=growing.ROW) as session, torch.no_grad():
            for i in range(4):
                module(latents, float(growing.STEPS - i))
            trace = session.trace
        assert (trace.reused > 0) == (side == "reuses"), side
        assert any(event.indicator is not None for event in trace.events) == (side == "measures"), side
        assert (trace.peak_bytes >= latents.nbytes) == (side in ("computes and keeps", "reuses")), side


def test_what_was_published_is_within_reach() -> None:
    """At most 20 microseconds for each block more, and no more than that on the middle sized model in all."""
    published = result("growing")
    assert all(line["microseconds_per_block"] <= 20 for line in published["lines"].values())
    middle = next(cell for cell in published["blocks"] if cell["blocks"] == published["middle"]["blocks"])
    assert all(1e6 * cost / middle["blocks"] <= 20 for cost in middle["cost"].values())
