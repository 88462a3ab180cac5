"""Processes that are copies of one that has imported all: workers, and ranks that share a folder.

They are copies of a server that has no threads, and not of the process that tests run in, which may have some.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.fleet.imported"])


def start(work: Callable[..., None], *arguments: Any) -> Any:
    """Return a process that runs a function; what it prints goes nowhere, unless it fails."""
    process = FORK.Process(target=_quietly, args=(work, arguments))
    process.start()
    return process


def _quietly(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        work(*arguments)


def command(folder: Path, *arguments: str) -> None:
    """Run the command in a folder; ends the process as the command does."""
    from bwcache.cli import main

    os.chdir(folder)
    main(arguments)


def rank(number: int, count: int, meet: Path, seconds: float, work: Callable[..., None], *arguments: Any) -> None:
    """Run a function as one of several ranks that meet in a file."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo"}
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and on a CPU it is 0
    dist.init_process_group("gloo", f"file://{meet}", rank=number, world_size=count, timeout=timedelta(seconds=seconds))
    work(*arguments)


def ended(process: Any, seconds: float = 1200) -> int:
    """Return the exit code of a process that ends by itself."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"process {process.pid} did not end in {seconds} s")
    return int(process.exitcode)


def killed(process: Any) -> None:
    """End a process as the system does when memory is short: without a word."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()
