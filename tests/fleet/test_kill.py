"""Workers that are killed without a word at random moments: nothing lost, nothing twice, nothing half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.kill import play_quick, play_videos


@pytest.mark.parametrize("blind", [False, True], ids=["seen", "by lease"])
def test_fifty_kills_over_a_folder(tmp_path: Path, blind: bool) -> None:
    found = play_quick(tmp_path, kills=50, blind=blind, seed=1, rows=600)
    assert found.faults == []
    assert found.kills == 50
    assert len(found.cells) == 600


@pytest.mark.slow
def test_kills_of_the_command_itself(tmp_path: Path) -> None:
    found = play_videos(tmp_path, kills=6, seed=1, rows=8)
    assert found.faults == []
    assert found.kills > 0
    assert len(found.cells) == 8
