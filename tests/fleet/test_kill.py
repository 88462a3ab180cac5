"""Workers that are killed without a word at random moments: nothing lost, nothing twice, nothing half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fleet.kill import play_quick, play_single, play_videos, rounds


@pytest.mark.parametrize("blind", [False, True], ids=["seen", "by lease"])
def test_fifty_kills_over_a_folder(tmp_path: Path, blind: bool) -> None:
    found = play_quick(tmp_path, kills=50, blind=blind, seed=1, rows=600)
    assert found.faults == []
    assert found.kills.total() == 50
    assert len(found.cells) == 600


@pytest.mark.slow
def test_kills_of_the_command_itself(tmp_path: Path) -> None:
    found = play_videos(tmp_path, kills=5, seed=1, rows=8)
    assert found.faults == []
    assert found.kills.total() >= 5
    assert len(found.cells) == 8


@pytest.mark.slow
def test_kills_of_the_command_without_a_prompt_file(tmp_path: Path) -> None:
    found = play_single(tmp_path, kills=3, seed=1)
    assert found.faults == []
    assert len(found.cells) == 2


def test_rounds_go_on_where_they_were(tmp_path: Path) -> None:
    log = tmp_path / "kills.jsonl"
    seen = [{"round": number, "faults": []} for number in range(3)]
    log.write_text("".join(json.dumps(one) + "\n" for one in seen))
    assert rounds(2, log, kills=1, rows=1) == seen[:2]
