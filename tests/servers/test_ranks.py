"""Two ranks within the real packages, over gloo: their groups are found, and both decide the same.

Where BWCACHE_SERVERS is set. Not of sglang's ring attention, which no attention that runs on a CPU can do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.test_in_servers import needs

ROOT = Path(__file__).parents[2]
WAYS = {"tp": "tensor", "cfg": "guidance", "ulysses": "sequence", "ring": "sequence"}


@pytest.mark.parametrize(
    ("package", "way"),
    [
        *(pytest.param("sglang", way, marks=needs("sglang")) for way in ("tp", "cfg", "ulysses")),
        *(pytest.param("vllm_omni", way, marks=needs("vllm_omni")) for way in WAYS),
    ],
)
def test_ranks_find_each_other_and_decide_the_same(package: str, way: str, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "TORCHDYNAMO_DISABLE": "1"}  # minutes for nothing
    command = [sys.executable, "-m", "tests.servers.rank", package, way]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], env=env, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [run.communicate(timeout=900)[0].splitlines() for run in runs]
    first, second = ([json.loads(line) for line in lines if line.startswith('[{"ranks"')][-1] for lines in said)
    for one, other in zip(first, second, strict=True):
        found = f"2 of 2 ranks have parts of this video ({WAYS[way]} parallelism of {package})"
        assert one["ranks"] == other["ranks"] == found
        assert one["line"] == other["line"]
        assert {"C", "r"} <= set(one["line"])
        assert (one["made"] == other["made"]) == (package == "vllm_omni" or way != "ulysses")  # there each has a half
