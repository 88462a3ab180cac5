"""A ComfyUI of its own on a free port, with the pack, the nodes for tests and a tiny Wan: what a front end talks to."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.comfyui import CHECKOUT, wan

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
"""Seconds: a machine that does other things starts it slowly."""
Graph = dict[str, dict[str, Any]]


class Server:
    """What a front end can ask for.

    Args:
        port: that it listens on.
        base: its folder: models, output, custom_nodes.
    """

    def __init__(self, port: int, base: Path) -> None:
        self.address, self.base = f"http://127.0.0.1:{port}", base

    def get(self, path: str) -> Any:
        """What is at a path."""
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, said: Any) -> Any:
        """What it answers, also where it refuses."""
        asked = urllib.request.Request(self.address + path, json.dumps(said).encode())
        asked.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            content = error.read()
        return json.loads(content) if content else {}

    def queued(self, graph: Graph) -> str:
        """Queue a workflow; return its id."""
        answer = self.post("/prompt", {"prompt": graph})
        assert "prompt_id" in answer, answer
        found: str = answer["prompt_id"]
        return found

    def done(self, name: str) -> Any:
        """Wait for a workflow; return what became of it."""
        return until(lambda: self.get(f"/history/{name}").get(name), f"the end of {name}")

    def ran(self, graph: Graph) -> Any:
        """Run a workflow."""
        return self.done(self.queued(graph))

    def picture(self, image: dict[str, str]) -> Any:
        """A picture that a node showed, `[H, W, 3]` in 0..255."""
        import numpy as np
        from PIL import Image

        with urllib.request.urlopen(f"{self.address}/view?{urllib.parse.urlencode(image)}", timeout=60) as answer:
            return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))

    def sampling(self) -> bool:
        """Whether a workflow runs now."""
        return bool(self.get("/queue")["queue_running"])


def until(tried: Callable[[], Any], what: str) -> Any:
    """Wait for something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = tried()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {PATIENCE:g} s for {what}")


def errors(ran: Any) -> list[tuple[str, str]]:
    """The nodes that failed, each with what it said."""
    told = [said for kind, said in ran["status"]["messages"] if kind == "execution_error"]
    return [(said["node_id"], said["exception_message"]) for said in told]


@contextmanager
def started(base: Path) -> Iterator[Server]:
    """A server with a folder of its own."""
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in wan().model.diffusion_model.state_dict().items()}
    for name in ("custom_nodes", "models/diffusion_models", "user"):
        (base / name).mkdir(parents=True)
    save_file(weights, base / "models" / "diffusion_models" / "tiny_wan.safetensors")
    (base / "custom_nodes" / "bwcache").symlink_to(ROOT / "comfyui")
    (base / "custom_nodes" / "server_nodes").symlink_to(ROOT / "tests" / "comfy" / "server_nodes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    options += ["--disable-api-nodes", "--database-url", f"sqlite:///{base}/user/comfyui.db"]
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))))
    around = {**os.environ, "PYTHONPATH": paths, "BWCACHE_COMFYUI": CHECKOUT, "OMP_NUM_THREADS": "1"}
    log = base / "log.txt"
    with log.open("wb") as told:
        command = [sys.executable, "-m", "tests.comfy.start_comfyui", *options]
        program = subprocess.Popen(command, cwd=ROOT, env=around, stdout=told, stderr=subprocess.STDOUT)
    server = Server(port, base)

    def answers() -> bool:
        if program.poll() is not None:
            pytest.fail(f"ComfyUI did not start:\n{log.read_text(errors='replace')[-4000:]}")
        try:
            return bool(server.get("/system_stats"))
        except OSError:
            return False

    try:
        until(answers, "ComfyUI to start")
        yield server
    finally:
        program.terminate()
        try:
            program.wait(30)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
