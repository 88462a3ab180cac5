"""Workers on a Ray cluster. Ray places them and says when one dies; rows, leases and videos are as without it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bwcache.core.words import shown
from bwcache.errors import BWCacheError, SettingError, complaint

LOCAL = "local"
"""The address of a cluster that is started here and ends with the process."""
STARTS, IN_TIME = 3, 8
"""So often a cluster is started here until it is given up; and where Ray gave up because its 30 s were over."""
FRUITLESS = 3
"""So many workers on end may die without having settled a row; then it is not by chance."""
WAITS = 30.0
"""Seconds after which it is said that a worker has found no place on the cluster yet."""

Tell = Callable[[Any], None]
Work = Callable[[Tell], None]
"""What a worker does: it tells of each row, and returns when there is nothing more to do. It travels as a pickle."""


@contextlib.contextmanager
def connected(address: str, say: Tell | None = None) -> Iterator[Any]:
    """Give ray, connected to a cluster while the block lasts.

    Args:
        address: "local", "auto" for the one that this machine belongs to, or host:port.
        say: is given what a person should know, in words.

    Raises:
        SettingError: there is none.
    """
    _check(address)
    os.environ.setdefault("RAY_worker_niceness", "0")  # else they come after everything else on the machine
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")  # torch takes long to import on a busy one
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    _join(ray, address, say)
    try:
        yield ray
    finally:
        ray.shutdown()


def _join(ray: Any, address: str, say: Tell | None) -> None:
    """Connect; on a busy machine Ray gives up its own start after 30 s, which cannot be set, and does better later."""
    more: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    for tried in range(1, IN_TIME + 1):
        before = _children()
        try:
            ray.init(address, log_to_driver=False, logging_level="error", **more)
            return
        except Exception as error:  # of whatever kind: Ray has no class for a start that failed
            ray.shutdown()
            for process in _children() - before:  # of a start that failed Ray leaves them, and they slow the next one
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            late = "timed out" in str(error)
            most, why = (IN_TIME, " after 30 s") if late else (STARTS, "")
            if address != LOCAL or tried >= most:
                raise _no_cluster(address, " ".join(str(error).split())[:160]) from error
            if say is not None:
                say(f"Ray gave its start up{why}; once more ({tried + 1} of {most})")


def _children() -> set[int]:
    """The processes that this one has started and that are still there; none where the system does not say."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text(encoding="ascii").split()))
    return found


def run_workers(ray: Any, work: Work, count: int, gpus: int, hear: Callable[[Any], None], say: Tell) -> None:
    """Return when all workers have nothing more to do. One that dies is replaced.

    Args:
        ray: connected.
        work: what each does.
        count: of workers.
        gpus: of each; with none each takes a CPU.
        hear: is given what they tell; from one thread.
        say: is given what a person should know, in words.

    Raises:
        BWCacheError: what one of them raised; or they die without having done anything.
    """
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    hand = ray.remote(max_restarts=0, **({"num_gpus": gpus} if gpus else {"num_cpus": 1}))(_Hand)

    def begin() -> None:
        _listen(ray, hand.remote(os.getcwd()), work, told)

    for _ in range(count):
        begin()
    working, fruitless = count, 0
    while working:
        kind, what = told.get()
        if kind == "row":
            fruitless = 0
            hear(what)
        elif kind == "died":
            fruitless += 1
            if fruitless >= FRUITLESS * count:
                found = f"{fruitless} workers on end that died before a row was settled ({what})"
                raise BWCacheError(complaint(found, "workers that live", "look at memory, and into Ray's logs"))
            say(f"a worker died ({what}); another one begins")
            begin()
        elif kind == "waits":
            say(f"a worker still waits to begin: {_room(ray, gpus)}")
        elif kind == "failed":
            raise what
        else:
            working -= 1


class _Hand:
    """A worker, as Ray's actor."""

    def __init__(self, folder: str) -> None:
        with contextlib.suppress(OSError):  # another machine may not have it
            os.chdir(folder)

    def work(self, work: Work) -> Iterator[Any]:
        """Yield what it tells."""
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        failed: list[BaseException] = []
        end = object()

        def run() -> None:
            try:
                work(told.put)
            except BaseException as error:  # goes to the driver
                failed.append(error)
            finally:
                told.put(end)

        threading.Thread(target=run, name="worker", daemon=True).start()
        while (one := told.get()) is not end:
            yield one
        if failed:
            raise failed[0]


def _listen(ray: Any, hand: Any, work: Work, told: queue.SimpleQueue[tuple[str, Any]]) -> None:
    """Hand on what a worker tells, and how it ended, from a thread of its own."""

    def listen() -> None:
        try:
            if not ray.wait([hand.__ray_ready__.remote()], timeout=WAITS)[0]:
                told.put(("waits", None))
            for one in hand.work.options(num_returns="streaming").remote(work):
                told.put(("row", ray.get(one)))
        except ray.exceptions.RayActorError as error:
            told.put(("died", " ".join(str(error).split())[:160]))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            told.put(("failed", cause if isinstance(cause, BaseException) else error))
        except BaseException as error:
            told.put(("failed", error))
        else:
            told.put(("ended", None))
        finally:
            with contextlib.suppress(Exception):
                ray.kill(hand)

    threading.Thread(target=listen, name="listener", daemon=True).start()


def gpus_of(ray: Any) -> int:
    """Return how many GPUs the cluster has."""
    return int(ray.cluster_resources().get("GPU", 0))


def _room(ray: Any, gpus: int) -> str:
    """What a worker takes, and what the cluster has of it."""
    kind = "GPU" if gpus else "CPU"
    every, free = (int(found.get(kind, 0)) for found in (ray.cluster_resources(), ray.available_resources()))
    return f"it takes {gpus or 1} {kind}, of which the cluster has {every} by now, and {free} free"


def _check(address: str) -> None:
    """Raise where nobody answers: Ray itself would wait for minutes, or end the process."""
    if address in (LOCAL, "auto"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        found = f"--ray {shown(address)}"
        raise SettingError(complaint(found, "nothing, auto, or host:port", "call it on a machine of the cluster"))
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, UnicodeError) as error:
        raise _no_cluster(address, getattr(error, "strerror", None) or str(error)) from error


def _no_cluster(address: str, why: str) -> SettingError:
    if address == LOCAL:
        found = f"a Ray cluster that could not be started here ({why})"
        return SettingError(complaint(found, "one that starts", "try again when the machine is less busy"))
    found = f"no Ray cluster at --ray {shown(address)} ({why})"
    fix = "start it by 'ray start --head', or give no address"
    if address != "auto" and "RAY_AUTH_MODE" not in os.environ:  # Ray itself sends a token to no address that is named
        fix += "; for one that asks for a token, set RAY_AUTH_MODE=token"
    return SettingError(complaint(found, "one that runs", fix))
