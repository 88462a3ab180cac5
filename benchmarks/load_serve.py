"""Load on `bwcache serve`: many requests at once, some of which are cancelled, on the loopback; prints JSON.

    python -m benchmarks.load_serve                                           one process, batches of four
    python -m benchmarks.load_serve --ray --replicas 2 --kills 3 --wipes 2    replicas of Ray Serve: three times one is
                                                                              killed, and twice all of them at once

Every request has to end with an answer: a video, a cancellation that was asked for, or a line that says why not. A full
queue is no end: whoever meets one asks again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

STREAM = {"Accept": "text/event-stream"}
GRADES = ("near", "balanced", "fast")


@dataclass
class Outcome:
    """What came of the requests.

    Attributes:
        ends: how many ended in each way.
        seconds: from the acceptance to the end, of those that were made.
        again: beginnings anew, after a replica died.
        full: answers that there is no room.
        resident: bytes of the server's process, after each tenth part of the requests.
        killed: replicas; `wiped`: times at which all there were, two or more, were killed at once.
    """

    ends: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    again: int = 0
    full: int = 0
    resident: list[int] = field(default_factory=list)
    killed: int = 0
    wiped: int = 0


async def ask(client: httpx.AsyncClient, values: dict[str, Any], cancel: float | None, outcome: Outcome) -> str:
    """Return how a request ended; `cancel`: after so many seconds nobody wants it any more."""
    while True:
        begun = time.monotonic()
        async with client.stream("POST", "/videos", json=values, headers=STREAM) as answer:
            if answer.status_code == 503:
                outcome.full += 1
                await answer.aread()
            elif answer.status_code != 200:
                return f"answered {answer.status_code}"
            else:
                return await follow(client, answer, begun, cancel, outcome)
        await asyncio.sleep(min(2.0, float(answer.headers["retry-after"])) * (0.5 + random.random()))


async def follow(
    client: httpx.AsyncClient, answer: httpx.Response, begun: float, cancel: float | None, outcome: Outcome
) -> str:
    """Read a stream to its end, or leave it: half of those who cancel do so by a request of its own."""
    name, kind = "", ""
    async for line in answer.aiter_lines():
        key, _, text = line.partition(": ")
        if key == "event":
            kind = text
            outcome.again += kind == "again"
        elif key == "data" and kind == "video":
            name = json.loads(text)["id"]
        if kind in ("done", "failed", "cancelled") and key == "data":
            if kind == "done":
                outcome.seconds.append(time.monotonic() - begun)
            return kind if kind != "failed" else f"failed: {json.loads(text)['error']}"
        if cancel is not None and time.monotonic() - begun > cancel:
            if random.random() < 0.5:
                return "left"
            await client.delete(f"/videos/{name}")
            cancel = None
    return "lost without an answer"


async def load(address: str, process: int, count: int, at_once: int, kills: int, wipes: int) -> Outcome:
    """Return what came of so many requests; `kills`: times at which a replica is killed, `wipes`: at which all are."""
    outcome, turns = Outcome(), iter(range(count))
    limits = httpx.Limits(max_connections=None)

    async def hand(client: httpx.AsyncClient) -> None:
        for turn in turns:
            values = {"prompt": f"a ball {turn}", "seed": turn, "frames": 5, "steps": random.choice((3, 4))}
            cancel = random.uniform(0, 4) if random.random() < 0.2 else None
            how = await ask(client, values | {"grade": random.choice(GRADES)}, cancel, outcome)
            outcome.ends[how] += 1
            if outcome.ends.total() % max(1, count // 10) == 0:
                outcome.resident.append(resident(process))

    async def killer() -> None:
        moments = random.sample([1] * kills + [None] * wipes, kills + wipes)
        for turn, most in enumerate(moments):
            due, least = count * (turn + 1) / (len(moments) + 1), 2 if most is None else 1
            while outcome.ends.total() < due or (len(replicas(process)) < least and patient(due)):
                await asyncio.sleep(0.2)
            there = replicas(process)[:most]
            for replica in there:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(replica, signal.SIGKILL)
                    outcome.killed += 1
            outcome.wiped += most is None and len(there) > 1

    def patient(due: float) -> bool:
        """Whether there is time to wait for replicas to be killed: for so many requests more."""
        return outcome.ends.total() < min(due + count / 10, 0.9 * count)

    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        await asyncio.gather(killer(), *(hand(client) for _ in range(at_once)))
        left = (await client.get("/health")).json()
        while left["running"] or left["waiting"]:
            await asyncio.sleep(0.2)
            left = (await client.get("/health")).json()
    return outcome


def resident(process: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def replicas(process: int) -> list[int]:
    """Return the processes that hold a pipeline for a server."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"ray::ServeReplica:bwcache-{process}:" in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
    return found


def main() -> None:
    """Start a server, load it, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="times at which a replica is killed, with --ray")
    parser.add_argument("--wipes", type=int, default=0, help="times at which all replicas are killed at once")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    options = ["--port", "0", "--batch", str(asked.batch), "--queue", str(asked.queue), "--keep", "20"]
    options += ["--ray", "--replicas", str(asked.replicas)] if asked.ray else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bwcache", "serve", *options]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            said: list[str] = []
            while not said or (said[-1] and " at http://" not in said[-1]):
                said.append(server.stderr.readline())
            if not said[-1]:
                raise SystemExit(f"the server did not start:\n{''.join(said)}")
            address = said[-1].split()[-1]
            threading.Thread(target=deque, args=(server.stderr, 0), daemon=True).start()  # a full pipe would stop it
            begun = time.monotonic()
            outcome = asyncio.run(load(address, server.pid, asked.requests, asked.at_once, asked.kills, asked.wipes))
        finally:
            server.terminate()
            server.wait(60)
    lost = asked.requests - outcome.ends.total() + outcome.ends["lost without an answer"]
    shares = statistics.quantiles(outcome.seconds, n=20)
    print(
        json.dumps(
            {
                "machine": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load": os.getloadavg()[0],
                "asked": vars(asked),
                "seconds": round(time.monotonic() - begun, 1),
                "ends": dict(outcome.ends.most_common()),
                "without an answer": lost,
                "full": outcome.full,
                "again": outcome.again,
                "killed": outcome.killed,
                "wiped": outcome.wiped,
                "p50": round(shares[9], 2),
                "p95": round(shares[18], 2),
                "resident MiB": [round(one / 2**20) for one in outcome.resident],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
