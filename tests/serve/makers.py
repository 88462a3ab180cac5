"""Makers that make nothing, as a test wants them: at once, when told to, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from bwcache.measure.call import Request
from bwcache.policies import Planned
from bwcache.serve.order import LostMakerError, Message, Order

FIGURES = {
    "reuse_rate": 0.5,
    "estimated_speedup": 2.0,
    "device_bytes": 10,
    "host_bytes": 0,
    "steps": 2,
    "after_seconds": 0.25,
}


def order(prompt: str = "a ball", **settings: Any) -> Order:
    policy = settings.pop("policy", Planned(0.03))
    return Order(Request(prompt, **{"steps": 2, "seed": 0, **settings}), policy)


class Puppet:
    """A maker.

    Attributes:
        calls: the prompts of each batch.
        closed: batches that were closed early.
        dies: so many of the next batches lose their maker.
        go: nothing ends before it is set.
    """

    def __init__(self, dies: int = 0, waits: bool = False) -> None:
        self.calls: list[list[str]] = []
        self.closed: list[list[str]] = []
        self.dies = dies
        self.broken: str | None = None
        self.go = asyncio.Event()
        if not waits:
            self.go.set()

    async def fault(self) -> str | None:
        return self.broken

    async def make(self, orders: Sequence[Order]) -> AsyncGenerator[Message, None]:
        prompts = [one.request.prompt for one in orders]
        self.calls.append(prompts)
        whole = False
        try:
            for place in range(len(orders)):
                yield Message(place, "step", {"step": 0, "total": 2, "action": "compute", "reason": "first step"})
            await self.go.wait()
            if self.dies:
                self.dies -= 1
                whole = True
                raise LostMakerError("a replica died")
            for place, prompt in enumerate(prompts):
                if prompt == "bad":
                    yield Message(place, "failed", {"error": "found bad"})
                elif prompt != "forgotten":
                    files = {"video.mp4": prompt.encode(), "trace.jsonl": b"{}"}
                    yield Message(place, "done", FIGURES | {"prompt": prompt}, files)
            whole = True
        finally:
            if not whole:
                self.closed.append(prompts)
