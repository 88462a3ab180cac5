"""Answers on a port until the process is told to end; whoever still waits is told so before."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from bwcache.serve.desk import Desk

GRACE = 10
"""Seconds that answers under way have to end."""


class _Server(uvicorn.Server):
    """A server that says when it answers, and tells its jobs before it ends."""

    def __init__(self, config: uvicorn.Config, desk: Desk, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._desk, self._ready = desk, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: streams of jobs can only end when these do."""
        await self._desk.close()
        await super().shutdown(sockets)


def serve(app: Any, desk: Desk, opened: socket.socket, ready: Callable[[], object]) -> None:
    """Return when the process was told to end.

    Args:
        app: the ASGI application.
        desk: its queue.
        opened: a bound socket.
        ready: called when it answers.
    """
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE, lifespan="on")
    _Server(config, desk, ready).run(sockets=[opened])
