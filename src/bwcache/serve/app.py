"""The addresses: make a video, watch it being made, cancel it, have it; health and figures; the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from bwcache.core.files import parse_json
from bwcache.core.words import shown
from bwcache.errors import BWCacheError, complaint
from bwcache.serve.desk import Desk, FullError
from bwcache.serve.figures import Figures
from bwcache.serve.job import Job, Told
from bwcache.serve.order import Maker, Order
from bwcache.serve.pipeline import TRACE, VIDEO
from bwcache.serve.shelf import Shelf

PAGE = Path(__file__).with_name("page.html")
LARGEST = 64 * 1024
"""Bytes of a request."""
BEAT = 10.0
"""Seconds without an event until a line is sent that says nothing, so that nobody in between hangs up."""
STREAM = "text/event-stream"
TYPES = {VIDEO: "video/mp4", TRACE: "application/jsonl"}
GUARD = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; media-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Read = Callable[[Mapping[str, Any]], Order]
"""Makes an order of the values of a request; raises a `BWCacheError` where it cannot."""


def make_app(
    desk: Desk, maker: Maker, shelf: Shelf, figures: Figures, read: Read, about: Mapping[str, Any]
) -> Starlette:
    """Return the ASGI application.

    Args:
        desk: takes the orders; starts and ends with the application.
        maker: who makes them, for its health.
        shelf: where the finished ones are.
        figures: what is counted.
        read: what a request asks for.
        about: what the page should know of model and defaults, ready for JSON.
    """
    return Addresses(desk, maker, shelf, figures, read, about).app()


class Addresses:
    """What each address answers."""

    def __init__(
        self, desk: Desk, maker: Maker, shelf: Shelf, figures: Figures, read: Read, about: Mapping[str, Any]
    ) -> None:
        self._desk, self._maker, self._shelf, self._figures = desk, maker, shelf, figures
        self._read, self._about = read, dict(about)
        self._page = PAGE.read_text(encoding="utf-8")

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/", self.page),
            Route("/about", self.about),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/videos", self.make, methods=["POST"]),
            Route("/videos/{name}", self.show),
            Route("/videos/{name}", self.cancel, methods=["DELETE"]),
            Route("/videos/{name}/events", self.events),
            Route("/videos/{name}/{file}", self.file),
        ]
        answers: Any = {HTTPException: _http_error, BWCacheError: _refusal, FullError: _full}
        return Starlette(routes=routes, exception_handlers=answers, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._desk.start()
        try:
            yield
        finally:
            await self._desk.close()
            self._shelf.close()

    async def page(self, request: Request) -> Response:
        """The page for people."""
        return HTMLResponse(self._page, headers=GUARD)

    async def about(self, request: Request) -> Response:
        """Model, grades, defaults, bounds."""
        return JSONResponse(self._about | {"waiting": self._desk.waiting, "running": self._desk.running})

    async def health(self, request: Request) -> Response:
        """Whether videos can be made: 200 or 503."""
        fault = "the server ends" if self._desk.closed else await self._maker.fault()
        state = {"waiting": self._desk.waiting, "running": self._desk.running}
        if fault is None:
            return JSONResponse({"status": "ok", **state})
        return JSONResponse({"status": "failed", "error": fault, **state}, 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        self._figures.queue(self._desk.waiting, self._desk.running)
        return Response(self._figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def make(self, request: Request) -> Response:
        """Take an order: 202 and where to look; or with `Accept: text/event-stream` all that happens.

        Whoever leaves such a stream before its end wants the video no more.
        """
        values = await _values(request)
        order = await asyncio.to_thread(self._read, values)
        job = self._desk.take(order)
        where = {"Location": self._links(job)["self"]}
        if STREAM in request.headers.get("accept", ""):
            return _Stream(self._stream(job), where, leave=lambda: self._desk.cancel(job))
        return JSONResponse(self._state(job), 202, headers=where)

    async def show(self, request: Request) -> Response:
        """How far a video is, and its figures when it is made."""
        return JSONResponse(self._state(self._job(request)))

    async def cancel(self, request: Request) -> Response:
        """Make it no more; of one that is over, remove its files. 200 with its last state."""
        job = self._job(request)
        if job.over:
            await self._desk.forget(job)
        else:
            self._desk.cancel(job)
        return JSONResponse(self._state(job))

    async def events(self, request: Request) -> Response:
        """All that happens, from `Last-Event-ID` on. Leaving it changes nothing."""
        job = self._job(request)
        last = request.headers.get("last-event-id", "-1")
        return _Stream(self._stream(job, int(last) if last.isdecimal() else -1))

    async def file(self, request: Request) -> Response:
        """The video, or its trace."""
        job, file = self._job(request), request.path_params["file"]
        if file not in TYPES:
            raise HTTPException(404, complaint(f"no {shown(file)}", " or ".join(TYPES), "name one of them"))
        path = self._shelf.path(job.name, file)
        if job.state != "done" or not path.is_file():
            found = f"a video that is {job.state}"
            raise HTTPException(404, complaint(found, "one that is done", f"watch {self._links(job)['events']}"))
        return FileResponse(path, media_type=TYPES[file], headers={"Cache-Control": "private, max-age=3600"})

    def _job(self, request: Request) -> Job:
        name = request.path_params["name"]
        job = self._desk.find(name)
        if job is None:
            found = f"no video {shown(name)}"
            raise HTTPException(404, complaint(found, f"one of the last {self._shelf.room}", "ask for it anew"))
        return job

    def _state(self, job: Job) -> dict[str, Any]:
        last = job.events[-1].data if job.events else {}
        links = self._links(job)
        if job.state != "done":
            links = {name: link for name, link in links.items() if name in ("self", "events")}
        found: dict[str, Any] = {"id": job.name, "state": job.state, "links": links}
        if job.state == "waiting":
            found["before"] = self._desk.before(job)
        steps = [event.data for event in job.events if event.kind == "step"]
        if job.state == "running" and steps:
            found["step"] = steps[-1]
        if job.state == "done":
            found["figures"] = last
        elif job.state == "failed":
            found["error"] = last["error"]
        return found

    def _links(self, job: Job) -> dict[str, str]:
        here = f"/videos/{job.name}"
        return {"self": here, "events": f"{here}/events", "video": f"{here}/{VIDEO}", "trace": f"{here}/{TRACE}"}

    async def _stream(self, job: Job, after: int = -1) -> AsyncGenerator[bytes, None]:
        """Events as text."""
        yield _text("video", {"id": job.name, "links": self._links(job)})
        watched = job.watch(after)
        coming: asyncio.Future[Told] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(watched))
                done, _ = await asyncio.wait([coming], timeout=BEAT)
                if not done:
                    yield b": still there\n\n"
                    continue
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                yield _text(event.kind, event.data, event.number)
        finally:
            if coming is not None:
                coming.cancel()


class _Stream(StreamingResponse):
    """Server-sent events; `leave` is called when the reader has gone, at the end or before."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] | None = None,
        leave: Callable[[], object] | None = None,
    ) -> None:
        more = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, headers={**more, **(headers or {})}, media_type=STREAM)
        self._leave = leave

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._leave is not None:
                self._leave()


def _text(kind: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    name = "" if number is None else f"id: {number}\n"
    return f"{name}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


async def _values(request: Request) -> dict[str, Any]:
    """The object in a request's body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, complaint(f"content type {shown(kind)}", "application/json", "say so in the header"))
    try:
        body = await _body(request)
        values = parse_json(body.decode("utf-8"))
    except ClientDisconnect:
        raise HTTPException(400, "found half a request") from None
    except ValueError as error:
        found = f"a body that is no JSON ({' '.join(str(error).split())[:120]})"
        raise HTTPException(400, complaint(found, "an object", 'send such as {"prompt": "a red ball"}')) from error
    if not isinstance(values, dict):
        raise HTTPException(400, complaint(shown(values), "an object", 'send such as {"prompt": "a red ball"}'))
    return {name: value for name, value in values.items() if value is not None}


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise HTTPException(413, complaint(f"a body of more than {LARGEST} bytes", "a shorter one", "cut it"))
    return body


def _answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers=dict(headers or {}))


async def _http_error(request: Request, error: Any) -> Response:
    usual = {
        404: complaint(f"no address {shown(request.url.path)}", "/, /videos, /health or /metrics", "see /"),
        405: complaint(f"{request.method} of {shown(request.url.path)}", "another method", "see the Allow header"),
    }
    text = error.detail if str(error.detail).startswith("found ") else usual.get(error.status_code, str(error.detail))
    return _answer(error.status_code, text, error.headers)


async def _refusal(request: Request, error: Any) -> Response:
    return _answer(422, str(error))


async def _full(request: Request, error: Any) -> Response:
    return _answer(503, str(error), {"Retry-After": str(error.seconds)})
