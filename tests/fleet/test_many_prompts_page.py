"""docs/many-prompts.md does what it says: its lines are run as they stand, with a small file."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "many-prompts.md").read_text(encoding="utf-8")
COMMANDS = [line[2:] for line in PAGE.splitlines() if line.startswith("$ ") and "--gpus-per-video" not in line]
"""Those with teams need what makes context parallelism run on a CPU: see test_team.py."""


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell in which `bwcache` and `torchrun` are these; writes a small prompt file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("bwcache", "bwcache"), ("torchrun", "torch.distributed.run")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    (tmp_path / "prompts.csv").write_text(
        "prompt,seed,steps,frames\na red circle,0,2,5\na red circle,1,3,5\na red circle,2,2,5\n"
    )
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


def begin(line: str, folder: Path, shell: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", line], cwd=folder, env=shell, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def expect_three(folder: Path) -> None:
    with (folder / "videos" / "table.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["made"] * 3
    assert len(list(folder.glob("videos/videos/*/*/video.mp4"))) == 3
    assert list((folder / "videos" / "leases").iterdir()) == []


@pytest.mark.slow
def test_the_lines_of_the_page(tmp_path: Path, shell: dict[str, str]) -> None:
    """One after the other on one folder: the second one finds all of it there, so it begins with an empty one."""
    assert [line.split()[0] for line in COMMANDS] == ["bwcache", "torchrun"]
    for place, line in enumerate(COMMANDS):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "prompts.csv").write_bytes((tmp_path / "prompts.csv").read_bytes())
        process = begin(line, folder, shell)
        said, _ = process.communicate(timeout=500)
        assert process.returncode == 0, said
        assert "3 of 3 videos are in " in said
        expect_three(folder)


@pytest.mark.slow
def test_two_tasks_of_the_slurm_array_at_once(tmp_path: Path, shell: dict[str, str]) -> None:
    script = ROOT / "examples" / "slurm.sh"
    shown = re.search(r"`examples/slurm.sh` is\n\n```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert shown is not None
    assert all(line in lines for line in shown[1].splitlines())
    tasks = [begin(f"SLURM_ARRAY_TASK_ID={number} {script}", tmp_path, shell) for number in range(2)]
    for task in tasks:
        said, _ = task.communicate(timeout=500)
        assert task.returncode == 0, said
    expect_three(tmp_path)
