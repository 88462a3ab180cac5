"""Teams of processes that make each video together: the same videos as one process, each once."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bwcache import SettingError
from bwcache.fleet.team import check_size, own_device
from tests.fleet.forked import command, ended, killed, rank, start

ROWS = [
    {"prompt": "a red circle", "steps": 6, "policy": "fixed-interval", "interval": 2},
    {"prompt": "a blue square", "steps": 4, "seed": 1},
    {"prompt": "a green ring", "steps": 4, "guidance_scale": 1.0},
    {"prompt": "a green ring", "steps": 4, "max_sequence_length": 4},
]


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """Writes the prompt file; the options of the command."""
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return ["generate", "--prompts", "rows.jsonl", "--frames", "5"]


def made(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Video and decisions of each cell."""
    return {
        path.name: ((path / "video.mp4").read_bytes(), json.loads((path / "video.json").read_text())["timeline"])
        for path in folder.glob("videos/*/*")
    }


def ranks(folder: Path, count: int, options: list[str], seconds: float = 120) -> list[Any]:
    meet = folder / f"meet-{time.monotonic_ns()}"
    return [start(rank, number, count, meet, seconds, command, folder, *options) for number in range(count)]


def test_two_teams_of_two_make_what_one_process_makes(tmp_path: Path, rows: list[str]) -> None:
    assert ended(start(command, tmp_path, *rows, "--out", "alone")) == 0
    processes = ranks(tmp_path, 4, [*rows, "--out", "teams", "--gpus-per-video", "2"])
    assert [ended(process) for process in processes] == [0] * 4
    assert made(tmp_path / "teams") == made(tmp_path / "alone")
    assert len(made(tmp_path / "alone")) == len(ROWS)
    with (tmp_path / "teams" / "table.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["made"] * len(ROWS)
    assert list((tmp_path / "teams" / "leases").iterdir()) == []


def test_one_of_a_team_is_killed_and_another_team_goes_on(tmp_path: Path, rows: list[str]) -> None:
    """The one that is left raises within its group's time-out: it does not hang, and no half cell is left."""
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**row, "steps": 40}) for row in ROWS[:2]))
    options = [*rows, "--out", "out", "--gpus-per-video", "2"]
    first, second = ranks(tmp_path, 2, options, seconds=20)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/leases/*.0")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    killed(second)
    assert ended(first) != 0
    assert all((path / "video.json").exists() for path in tmp_path.glob("out/videos/*/*"))
    assert list(tmp_path.glob("out/unfinished/*")) == []
    assert [ended(process) for process in ranks(tmp_path, 2, options)] == [0, 0]
    assert len(made(tmp_path / "out")) == 2


def test_a_world_that_is_no_multiple_is_refused_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    check_size(1)
    with pytest.raises(SettingError, match=r"--gpus-per-video 2 with 1 process; .*torchrun --nproc-per-node=2"):
        check_size(2)
    monkeypatch.setenv("WORLD_SIZE", "6")
    check_size(3)
    with pytest.raises(SettingError, match="--gpus-per-video 4 with 6 processes; expected a multiple of 4"):
        check_size(4)


def test_each_process_of_a_machine_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("SLURM_LOCALID", "5")
    assert own_device("cuda") == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert (own_device("cuda"), own_device("cpu")) == ("cuda:2", "cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert own_device("cuda") == "cuda"
    assert os.environ["LOCAL_RANK"] == "2"
