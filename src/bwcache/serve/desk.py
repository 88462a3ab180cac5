"""The queue: takes orders up to a bound, forms batches of those that fit together, and hands them to makers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
from collections import OrderedDict, deque
from contextlib import aclosing
from typing import Any

from bwcache.errors import BWCacheError
from bwcache.serve.figures import Figures
from bwcache.serve.job import Job
from bwcache.serve.order import LostMakerError, Maker, Message, Order
from bwcache.serve.shelf import Shelf

TRIES = 3
"""So many makers may die over a video; then it is the video."""
REMEMBERED = 16
"""So many of the last videos say how long one takes."""


class FullError(BWCacheError):
    """There is no more room in the queue.

    Attributes:
        seconds: after which it may be worth asking again.
    """

    def __init__(self, text: str, seconds: int) -> None:
        super().__init__(text)
        self.seconds = seconds


class Desk:
    """Where orders are taken.

    Args:
        maker: makes batches; may be asked for several at the same time.
        shelf: where finished videos go.
        figures: what is counted.
        hands: so many batches are made at the same time.
        room: so many orders may wait.
        together: so many videos at most in a batch.
    """

    def __init__(
        self, maker: Maker, shelf: Shelf, figures: Figures, hands: int = 1, room: int = 32, together: int = 1
    ) -> None:
        self.room, self.together = room, together
        self._maker, self._shelf, self._figures, self._hands = maker, shelf, figures, hands
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, asyncio.Task[None]] = {}
        self._came = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self.closed = False

    @property
    def waiting(self) -> int:
        """How many orders wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many are being made."""
        return sum(not job.over for job in self._running)

    def start(self) -> None:
        """Begin to work; within a running loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._hands)]

    async def close(self) -> None:
        """Take no more orders, and tell all that are not made that they will not be."""
        self.closed = True
        for job in [*self._waiting, *self._running]:
            self._end(job, "failed", {"error": "the server ends; ask again"})
        self._waiting.clear()
        for task in [*self._running.values(), *self._workers]:
            task.cancel()
        await asyncio.gather(*set(self._running.values()), *self._workers, return_exceptions=True)

    def take(self, order: Order) -> Job:
        """Return the job of an order.

        Raises:
            FullError: there is no more room, or the desk is closed.
        """
        if self.closed or len(self._waiting) >= self.room:
            self._figures.refused()
            found = "a server that ends" if self.closed else f"{len(self._waiting)} videos waiting"
            seconds = self._patience()
            raise FullError(f"found {found}; expected fewer than {self.room}; ask again in {seconds} s", seconds)
        job = Job(order)
        self._jobs[job.name] = job
        self._waiting.append(job)
        job.tell("waiting", {"before": len(self._waiting) - 1})
        self._came.set()
        return job

    def find(self, name: str) -> Job | None:
        """Return a job that is known by its name."""
        return self._jobs.get(name)

    def before(self, job: Job) -> int | None:
        """Return how many orders come before one; None where it does not wait."""
        return self._waiting.index(job) if job in self._waiting else None

    def cancel(self, job: Job) -> None:
        """Make it no more; what is over stays. A batch stops when nobody wants any of its videos."""
        if job.over:
            return
        self._end(job, "cancelled", {})
        if job in self._waiting:
            self._waiting.remove(job)
        task = self._running.get(job)
        if task is not None and all(other.over for other, whose in self._running.items() if whose is task):
            task.cancel()

    async def forget(self, job: Job) -> None:
        """Remove a job that is over, with its files."""
        self._jobs.pop(job.name, None)
        await self._shelf.remove(job.name)

    async def _work(self) -> None:
        while True:
            batch = await self._next()
            task = asyncio.create_task(self._make(batch))
            self._running |= dict.fromkeys(batch, task)
            await asyncio.wait([task])
            for job in batch:
                del self._running[job]
            self._settle(batch, task)

    async def _next(self) -> list[Job]:
        """The order that waits longest, and those that fit to it."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        batch = [self._waiting.popleft()]
        for job in list(self._waiting):
            if len(batch) == self.together:
                break
            if batch[0].order.fits(job.order):
                self._waiting.remove(job)
                batch.append(job)
        return batch

    async def _make(self, batch: list[Job]) -> None:
        loop = asyncio.get_running_loop()
        for job in batch:
            job.begun = loop.time()
            job.tell("started", {"steps": job.order.request.steps, "together": len(batch)}, "running")
        async with aclosing(self._maker.make([job.order for job in batch])) as messages:
            async for message in messages:
                await self._hear(batch[message.video], message)
        self._seconds.append((loop.time() - (batch[0].begun or 0.0)) / len(batch))

    async def _hear(self, job: Job, message: Message) -> None:
        if job.over:
            return
        if message.kind == "done":
            await self._shelf.put(job.name, message.files)
            self._end(job, "done", message.data)
        elif message.kind == "failed":
            self._end(job, "failed", message.data)
        else:
            if message.kind == "step":
                self._figures.step(message.data)
            job.tell(message.kind, message.data)

    def _settle(self, batch: list[Job], task: asyncio.Task[None]) -> None:
        """What is left of a batch after its maker: makers that die are no fault of a video, unless they do so again."""
        error = None if task.cancelled() else task.exception()
        for job in reversed(batch):
            if job.over:
                continue
            job.tries += isinstance(error, LostMakerError)
            if isinstance(error, LostMakerError) and job.tries < TRIES and not self.closed:
                job.tell("again", {"reason": str(error)}, "waiting")
                self._waiting.appendleft(job)
                self._came.set()
            else:
                reason = "it was not finished" if error is None else " ".join(f"{error}".split())
                self._end(job, "failed", {"error": reason})

    def _end(self, job: Job, how: Any, data: dict[str, Any]) -> None:
        if job.over:
            return
        job.tell(how, data, how)
        self._figures.ended(how, data, job)
        self._jobs.move_to_end(job.name)
        over = [one for one in self._jobs.values() if one.over]
        for old in over[: max(0, len(over) - self._shelf.room)]:
            self._forgetting(old)

    def _forgetting(self, job: Job) -> None:
        self._jobs.pop(job.name, None)
        with contextlib.suppress(RuntimeError):  # no loop any more: the shelf goes as a whole
            task = asyncio.ensure_future(self._shelf.remove(job.name))
            task.add_done_callback(lambda done: done.exception())

    def _patience(self) -> int:
        usual = statistics.median(self._seconds) if self._seconds else 10.0
        return max(1, math.ceil(usual * (len(self._waiting) + 1) / max(1, self._hands)))
