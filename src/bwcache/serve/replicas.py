"""Pipelines on a Ray cluster, by Ray Serve: as many as there is work for. One that dies is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from bwcache.errors import SettingError, complaint
from bwcache.fleet.cluster import connected, gpus_of
from bwcache.serve.order import LostMakerError, Message, Order
from bwcache.serve.pipeline import Pipeline

PATIENCE = {"health_check_period_s": 10, "health_check_timeout_s": 120, "graceful_shutdown_timeout_s": 5}
"""A replica that computes on few cores answers late, and is not dead for that."""
DEPLOYMENT = "pipeline"
AT_WORK = {"STARTING", "UPDATING", "RECOVERING", "RUNNING"}
"""What Ray calls a replica that is there or begins."""


class Replica:
    """A loaded pipeline, as Ray Serve's deployment.

    Args:
        load: makes the pipeline; travels as a pickle.
    """

    def __init__(self, load: Callable[[], Pipeline]) -> None:
        self._pipeline = load()

    async def make(self, orders: Sequence[Order]) -> AsyncGenerator[Message, None]:
        """Yield what happens, as `Pipeline.make`."""
        async with contextlib.aclosing(self._pipeline.make(orders)) as messages:
            async for message in messages:
                yield message

    async def check_health(self) -> None:
        """Raise where nothing can be made any more: then Ray Serve puts another one in its place."""
        fault = await self._pipeline.fault()
        if fault is not None:
            raise RuntimeError(fault)


class Replicas:
    """Makes batches on whichever replica is free.

    Args:
        handle: of the deployment.
        name: of its application.
    """

    def __init__(self, handle: Any, name: str) -> None:
        self._handle, self._name = handle.options(stream=True), name

    async def make(self, orders: Sequence[Order]) -> AsyncGenerator[Message, None]:
        """Yield what happens; each order ends with "done" or "failed".

        Raises:
            LostMakerError: the replica died.
        """
        from ray.exceptions import RayActorError, RayError

        stream = self._handle.make.remote(list(orders))
        whole = False
        try:
            async for message in stream:
                yield message
            whole = True
        except RayActorError as error:
            raise LostMakerError("a replica died") from error
        except RayError as error:
            raise LostMakerError(f"a replica was lost ({type(error).__name__})") from error
        finally:
            if not whole:
                stream.cancel()

    async def fault(self) -> str | None:
        """Return why nothing can be made; None while a replica is there or begins."""
        from ray import serve

        try:
            application = (await asyncio.to_thread(serve.status)).applications[self._name]
            state = application.status.value
            there = application.deployments[DEPLOYMENT].replica_states.keys()
        except Exception as error:  # the cluster is gone
            return f"the Ray cluster does not answer ({type(error).__name__})"
        if state in ("RUNNING", "DEPLOYING") or AT_WORK & there:  # Ray calls it unhealthy until a dead one is replaced
            return None
        return f"the replicas are {state.lower()}"


@contextlib.contextmanager
def deployed(load: Callable[[], Pipeline], address: str, most: int, cuda: bool) -> Iterator[Replicas]:
    """Give replicas of a pipeline while the block lasts.

    Args:
        load: makes one.
        address: of the cluster, as of `connected`.
        most: replicas; the first is there at once, others come with the work and go after it.
        cuda: whether each takes a GPU; else a CPU.

    Raises:
        SettingError: there is no cluster, or none of the replicas can be made.
    """
    with connected(address) as ray:
        from ray import serve

        if cuda and gpus_of(ray) < 1:
            found = f"no GPU in the Ray cluster at {address}"
            raise SettingError(complaint(found, "one for each replica", "name --device cpu, or another cluster"))
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        name = f"bwcache-{os.getpid()}"
        scaling = {"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": 1, "upscale_delay_s": 3}
        deployment = serve.deployment(
            name=DEPLOYMENT,
            max_ongoing_requests=1,
            ray_actor_options={"num_gpus": 1} if cuda else {"num_cpus": 1},
            autoscaling_config=scaling,
            **PATIENCE,
        )(Replica)
        serve.start(proxy_location="Disabled")
        try:
            handle = serve.run(deployment.bind(load), name=name, route_prefix=None)
        except RuntimeError as error:
            serve.delete(name, _blocking=False)
            found = f"replicas that cannot be made ({' '.join(str(error).split())[:200]})"
            raise SettingError(complaint(found, "one that loads", "see Ray's logs on its machine")) from error
        try:
            yield Replicas(handle, name)
        finally:
            with contextlib.suppress(Exception):  # a cluster that is gone has nothing to be taken from
                serve.delete(name, _blocking=False)
