"""A request and what becomes of it: a list of events that only grows, and may be watched from any place on."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from bwcache.serve.order import Order

State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Told:
    """An event: its ordinal, its kind, and what is said, ready for JSON."""

    number: int
    kind: str
    data: dict[str, Any]


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        order: what is asked for.
        name: by which it is found again; nobody can guess it.
        state: how far it is.
        tries: so many makers died over it.
        asked, begun, ended: moments, in seconds of a clock that only runs forward; None before they come.
    """

    order: Order
    name: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = "waiting"
    tries: int = 0
    asked: float = field(default_factory=time.monotonic)
    begun: float | None = None
    ended: float | None = None
    events: list[Told] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in OVER

    def tell(self, kind: str, data: dict[str, Any], state: State | None = None) -> None:
        """Add an event, and whoever watches sees it. What is over stays as it is."""
        if self.over:
            return
        if state is not None:
            self.state = state
        if self.over:
            self.ended = time.monotonic()
        self.events.append(Told(len(self.events), kind, data))
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def watch(self, after: int = -1) -> AsyncIterator[Told]:
        """Yield the events with a higher number than `after`, also those to come, until it is over."""
        while True:
            more = self._more
            for event in self.events[after + 1 :]:
                after = event.number
                yield event
            if self.over and after + 1 >= len(self.events):
                return
            if after + 1 >= len(self.events):
                await more.wait()

    async def end(self) -> None:
        """Return when it is over."""
        while not self.over:
            await self._more.wait()
