"""What a request asks for, and what a maker of videos tells while it makes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from bwcache.errors import BWCacheError
from bwcache.measure.call import Request


@dataclass(frozen=True)
class Order:
    """One video.

    Attributes:
        request: prompt, seed, steps, sizes, guidance.
        policy: what is reused.
        grade: by which the policy was named, or None.
        fps: frames per second of the file.
        unsettled: fields of a policy for which the settings published for the model are still to be looked up, because
            that takes the loaded model; else None.
    """

    request: Request
    policy: Any
    grade: str | None = None
    fps: int = 16
    unsettled: Mapping[str, Any] | None = None

    def fits(self, other: Order) -> bool:
        """Return whether both can be made in one batch, and each come out as it does alone."""
        if self.policy.probes or self.policy != other.policy or self.unsettled != other.unsettled:
            return False
        return _common(self.request) == _common(other.request) and self.fps == other.fps


@dataclass(frozen=True)
class Message:
    """What is told of a video.

    Attributes:
        video: its place in the batch.
        kind: "step", "decoding", "again", "done" or "failed".
        data: ready for JSON.
        files: of a video that is done: name -> content.
    """

    video: int
    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Maker(Protocol):
    """Who makes batches: a pipeline in this process, or replicas elsewhere."""

    def make(self, orders: Sequence[Order]) -> AsyncGenerator[Message, None]:
        """Yield what happens; each order ends with "done" or "failed". Closing it early stops the work.

        Raises:
            LostMakerError: whoever made them is gone, and somebody else may try.
        """

    async def fault(self) -> str | None:
        """Return why nothing can be made any more; None while all is well."""


class LostMakerError(BWCacheError):
    """A maker died over a batch, which was not to blame as far as one knows."""


def _common(request: Request) -> tuple[Any, ...]:
    """What all videos of a batch have in common: all but prompt, negative prompt and seed."""
    arguments = {name: value for name, value in request.arguments.items() if name != "negative_prompt"}
    names = tuple(sorted(request.arguments))
    return replace(request, arguments={}, prompt="", seed=0), names, arguments
