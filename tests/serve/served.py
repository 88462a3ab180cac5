"""The command as it runs, on a port of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

AT = " at http://"
ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """Variables with which a process runs this code, on one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Served:
    """A running `bwcache serve`.

    Attributes:
        address: such as "http://127.0.0.1:40001".
        lines: of its standard error, so far.
    """

    def __init__(self, *options: str, folder: Path) -> None:
        command = [sys.executable, "-m", "bwcache", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        self._ready.wait(1500)
        at = next((line for line in self.lines if AT in line), None)
        if at is None:  # it says why, or says nothing for so long
            self.end()
            raise AssertionError("".join(self.lines))
        self.address = at.split()[-1]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if AT in line:
                self._ready.set()
        self._ready.set()

    def end(self, how: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[Served]:
    """A server that ends with the block."""
    found = Served(*options, folder=folder)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.end()
