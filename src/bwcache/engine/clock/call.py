"""A forward of the denoiser that begins: what is said of it, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from bwcache.engine.clock.arguments import Arguments, channels
from bwcache.engine.clock.conditions import Condition
from bwcache.engine.clock.context import Context
from bwcache.engine.clock.host import HostStep
from bwcache.engine.clock.latents import LatentsSample
from bwcache.engine.clock.times import Time


class Call:
    """A forward that begins.

    Attributes:
        arguments: reads what it is given.
        args, kwargs: that.
        time: of it, its timestep.
        scheduler: of the pipeline that calls, or None.
        host, context: what is said around it, or None.
        name: of its branch, or None. A batch of several has all of their names in one.
        number: of its condition among those of the run, once it is asked for.
        jumped: whether its latents are of something else than those of its branch a step before, once it is asked for.
    """

    def __init__(
        self,
        arguments: Arguments,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        time: Time,
        scheduler: Any,
        host: HostStep | None,
        context: Context | None,
    ) -> None:
        self.arguments, self.args, self.kwargs = arguments, args, kwargs
        self.time, self.scheduler, self.host, self.context = time, scheduler, host, context
        self.number: int | None = None
        self.jumped: bool | None = None
        self.name = None if context is None else context.name
        if host is not None and host.branch is not None:
            self.name = "+".join(host.branches)

    def begin(self, time: Time) -> None:
        """It begins a run: what was asked about it in another one does not count."""
        self.time, self.number, self.jumped = time, None, None

    @cached_property
    def condition(self) -> Condition:
        """What it is conditioned on."""
        return self.arguments.condition(self.args, self.kwargs)

    @cached_property
    def options(self) -> dict[str | int, Any]:
        """How it was asked to run."""
        return self.arguments.options(self.args, self.kwargs)

    @cached_property
    def sample(self) -> LatentsSample | None:
        """A few entries of its latents."""
        stack = self.arguments.stack
        latents = stack.latents(self.args, self.kwargs)
        return None if latents is None else LatentsSample(latents, channels(stack.module))
