"""A forward of the denoiser that begins: what is said of it, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from bwcache.engine.clock import arguments
from bwcache.engine.clock.conditions import Condition
from bwcache.engine.clock.context import Context
from bwcache.engine.clock.host import HostStep
from bwcache.engine.clock.latents import LatentsSample
from bwcache.engine.clock.times import Time
from bwcache.models import BlockStack


@dataclass(eq=False)
class Call:
    """A forward that begins.

    Attributes:
        stack: of the denoiser.
        args, kwargs: what it is given.
        time: the same, of its timestep.
        scheduler: of the pipeline that calls, or None.
        host, context: what is said around it, or None.
        number: of its condition among those of the run, once it is asked for.
        jumped: whether its latents are of something else than those of its branch a step before, once it is asked for.
    """

    stack: BlockStack
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    time: Time
    scheduler: Any = None
    host: HostStep | None = None
    context: Context | None = None
    number: int | None = None
    jumped: bool | None = None

    def begin(self, time: Time) -> None:
        """It begins a run: what was asked about it in another one does not count."""
        self.time, self.number, self.jumped = time, None, None

    @property
    def name(self) -> str | None:
        """The branch that is named, or None. A batch of several has all of their names in one."""
        if self.host is not None and self.host.branches:
            return "+".join(self.host.branches)
        return self.context.name if self.context else None

    @cached_property
    def condition(self) -> Condition:
        """What it is conditioned on."""
        return Condition.of(self.stack.conditions, self.args, self.kwargs)

    @cached_property
    def options(self) -> tuple[Any, ...]:
        """How it was asked to run."""
        return arguments.options(self.args, self.kwargs, (self.stack.timestep, *self.stack.conditions))

    @property
    def latents(self) -> Tensor | None:
        """What it works on."""
        return arguments.latents(self.stack, self.args, self.kwargs)

    @cached_property
    def sample(self) -> LatentsSample | None:
        """A few entries of its latents."""
        latents = self.latents
        return None if latents is None else LatentsSample(latents, arguments.channels(self.stack.module))
