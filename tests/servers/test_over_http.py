"""The real servers, whole: a request over HTTP, and what the log says of it. Where BWCACHE_SERVERS is set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers.test_in_servers import needs

ROOT = Path(__file__).parents[2]
MINUTES = 15


def served(module: str, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The log of a server, and what it answered."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "TORCHDYNAMO_DISABLE": "1"}  # minutes for nothing
    command = [sys.executable, "-m", f"tests.servers.{module}", str(folder)]
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60 * MINUTES)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"asked"')]
    assert lines, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout + run.stderr, lines


@needs("sglang")
def test_sglang(tmp_path: Path) -> None:
    log, answers = served("serve_sglang", tmp_path)
    assert [answer["status"] for answer in answers] == ["completed"] * 4
    plain, fast, wrong, blocks = (Path(answer["file_path"]).read_bytes() for answer in answers)
    assert plain == wrong == blocks != fast
    assert log.count("bwcache: here; requests that say nothing: off") == 1
    (computed,) = re.findall(rf"bwcache: request {answers[1]['id']}: fast, 8 steps, (\d) computed: ", log)
    assert 1 < int(computed) < 8
    assert re.search(rf"bwcache: request {answers[2]['id']}: everything is computed: found bwcache 'nearly'", log)
    assert re.search(rf"{answers[3]['id']}: everything is computed: found a method that keeps blocks", log)


@needs("vllm_omni")
def test_vllm_omni(tmp_path: Path) -> None:
    log, answers = served("serve_vllm_omni", tmp_path)
    assert [answer["status"] for answer in answers] == [200] * 3
    plain, fast, wrong = (answer["made"] for answer in answers)
    assert plain == wrong != fast
    assert re.search(rf"bwcache: request {answers[1]['id']}: fast, 12 steps, \d computed: ", log)
    assert re.search(rf"bwcache: request {answers[2]['id']}: everything is computed: found bwcache 'nearly'", log)
