"""A loaded pipeline that makes one batch after the other in a thread of its own, and tells each step as it is taken."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bwcache.core.trace import Event, Trace
from bwcache.engine import attach
from bwcache.errors import BWCacheError, MuchKeptWarning, NeverReusedWarning
from bwcache.fleet.figures import figures
from bwcache.measure.call import Call, Progress, call_together
from bwcache.measure.latency import computing_device, finish_device_work
from bwcache.policies import preset
from bwcache.report.videos import write_video
from bwcache.serve.order import Message, Order
from bwcache.serve.steps import Steps

VIDEO, TRACE = "video.mp4", "trace.jsonl"
"""The files of a video."""

Tell = Callable[[Message], object]


class StoppedError(BWCacheError):
    """Nobody wants what is being made any more."""


class Pipeline:
    """Makes videos.

    Args:
        pipe: a diffusers pipeline, loaded and on its device; nobody else calls it.
        memory: as of `attach`.
        max_memory: as of `attach`.
    """

    def __init__(self, pipe: Any, memory: str = "device", max_memory: int | None = None) -> None:
        self._pipe = pipe
        self._attached = partial(attach, pipe, timing=True, memory=memory, max_memory=max_memory)
        self._thread = ThreadPoolExecutor(1, "pipeline")
        self._alone = asyncio.Lock()
        self._batches = True
        self._fault: str | None = None

    async def fault(self) -> str | None:
        """Return why nothing can be made any more; None while all is well."""
        return self._fault

    async def make(self, orders: Sequence[Order]) -> AsyncGenerator[Message, None]:
        """Yield what happens; each order ends with "done" or "failed".

        Closing it stops the run at its next row, and returns when the pipeline is free again.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Message | None] = asyncio.Queue()
        stop = threading.Event()

        def tell(message: Message | None) -> None:
            loop.call_soon_threadsafe(told.put_nowait, message)

        def work() -> None:
            try:
                self._make(orders, tell, stop)
            finally:
                tell(None)

        async with self._alone:
            working = loop.run_in_executor(self._thread, work)
            try:
                while (message := await told.get()) is not None:
                    yield message
            finally:
                stop.set()
                await asyncio.shield(working)

    def _make(self, orders: Sequence[Order], tell: Tell, stop: threading.Event) -> None:
        """Make a batch; where that fails, or does not make each video as it is alone, one after the other."""
        with contextlib.suppress(StoppedError):
            if len(orders) > 1 and self._batches and self._as_batch(orders, tell, stop):
                return
            for place, order in enumerate(orders):
                self._one(place, order, tell, stop)

    def _as_batch(self, orders: Sequence[Order], tell: Tell, stop: threading.Event) -> bool:
        try:
            calls, trace, notes = self._call(orders, tell, stop, first=0)
        except StoppedError:
            raise
        except Exception as error:  # one of them may be to blame: each is tried by itself, and says so
            return self._again(orders, f"the batch failed ({_line(error)})", tell)
        if calls[0].drew_globally or any(event.sample is None for event in trace.events):
            self._batches = False
            return self._again(orders, "in a batch this pipeline does not make what it makes alone", tell)
        for place, (order, made) in enumerate(zip(orders, calls, strict=True)):
            self._hand_out(place, order, made, of_sample(trace, place), notes, len(orders), tell)
        return True

    def _again(self, orders: Sequence[Order], why: str, tell: Tell) -> bool:
        for place in range(len(orders)):
            tell(Message(place, "again", {"reason": f"{why}: made one by one"}))
        return False

    def _one(self, place: int, order: Order, tell: Tell, stop: threading.Event) -> None:
        try:
            (made,), trace, notes = self._call([order], tell, stop, first=place)
            self._hand_out(place, order, made, trace, notes, 1, tell)
        except StoppedError:
            raise
        except (BWCacheError, torch.OutOfMemoryError, OSError) as error:
            tell(Message(place, "failed", {"error": _line(error)}))
        except Exception as error:  # of the pipeline: this video fails, and the device is looked at
            tell(Message(place, "failed", {"error": f"{type(error).__name__}: {_line(error)}"}))
            self._look_at_device()

    def _call(
        self, orders: Sequence[Order], tell: Tell, stop: threading.Event, first: int
    ) -> tuple[list[Call], Trace, tuple[str, ...]]:
        steps = [Steps(_teller(tell, first + place)) for place in range(len(orders))]

        def on_step(event: Event) -> None:
            if stop.is_set():
                raise StoppedError("stopped")
            for place, one in enumerate(steps):
                if event.sample in (None, place):
                    one.add(event)

        def on_progress(progress: Progress) -> None:
            if progress.done > 0 or progress.stage == "decoding":
                for one in steps:
                    one.end_step()
            if progress.stage == "decoding" and progress.done == 0:
                for place in range(len(orders)):
                    tell(Message(first + place, "decoding"))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            for category in (NeverReusedWarning, MuchKeptWarning):
                warnings.simplefilter("always", category=category)
            with self._attached(self._policy(orders[0])) as session:
                session.on_step(on_step)
                calls = call_together(self._pipe, [order.request for order in orders], "video", on_progress)
        return calls, session.trace, tuple(dict.fromkeys(str(one.message) for one in caught))

    def _policy(self, order: Order) -> Any:
        return order.policy if order.unsettled is None else preset(self._pipe, **order.unsettled)

    def _hand_out(
        self, place: int, order: Order, made: Call, trace: Trace, notes: tuple[str, ...], together: int, tell: Tell
    ) -> None:
        found = figures(order.request, self._policy(order), made, trace, notes)
        with tempfile.TemporaryDirectory(prefix="bwcache-") as name:
            write_video(Path(name) / VIDEO, made.frames, order.fps)
            trace.to_jsonl(Path(name) / TRACE)
            files = {file: (Path(name) / file).read_bytes() for file in (VIDEO, TRACE)}
        tell(Message(place, "done", found | {"grade": order.grade, "made_together": together}, files))

    def _look_at_device(self) -> None:
        """A device may be lost for good by what went wrong on it."""
        device = computing_device(self._pipe)
        try:
            torch.zeros(1, device=device).add_(1)
            finish_device_work(device)
        except Exception as error:
            self._fault = f"device {device} does not answer any more ({_line(error)})"


def of_sample(trace: Trace, sample: int) -> Trace:
    """Return the part of a batch's trace that is of one video, as it would be of that alone; bytes are the batch's."""
    events = [replace(event, sample=None) for event in trace.events if event.sample == sample]
    return replace(trace, events=events)


def _teller(tell: Tell, place: int) -> Callable[[dict[str, Any]], object]:
    return lambda step: tell(Message(place, "step", step))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
