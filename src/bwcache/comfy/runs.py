"""What is told of the samplings with one node's model: each is found again by the latents that it ended with."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from bwcache.core.trace import Trace

KEPT_RUNS = 8
OTHER = "no run of this node ended with these samples: is another model linked to the sampler?"


@dataclass(frozen=True)
class Entries:
    """A few numbers of latents, by which they are known again.

    Attributes:
        shape: of the latents.
        values: from everywhere in them.
    """

    shape: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, latents: Any, count: int = 16) -> Entries | None:
        """Return those of latents; None: they are not one tensor."""
        if not isinstance(latents, Tensor) or latents.is_nested or not latents.numel():
            return None
        flat = latents.detach().reshape(-1)
        return cls(tuple(latents.shape), tuple(flat[:: max(1, len(flat) // count)][:count].tolist()))

    def same_as(self, other: Entries) -> bool:
        """Whether they are of the same latents, perhaps of another precision."""
        bound = 0.02 * max(map(abs, other.values)) + 1e-6
        near = all(abs(a - b) <= bound for a, b in zip(self.values, other.values, strict=False))
        return self.shape == other.shape and near


@dataclass(frozen=True)
class End:
    """A sampling that is over.

    Attributes:
        trace: if it left one.
        note: what to know of it.
        latents: that it ended with, if they are known.
    """

    trace: Trace | None
    note: str
    latents: Entries | None = None


@dataclass
class Runs:
    """The samplings with one node's model, newest last.

    No tensors are in it: it lives as long as ComfyUI keeps what the node returned.

    Attributes:
        traces, notes: of the last samplings: what was decided, and why nothing was reused.
        ends: of the same.
    """

    traces: deque[Trace] = field(default_factory=lambda: deque(maxlen=KEPT_RUNS))
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_RUNS))
    ends: deque[End] = field(default_factory=lambda: deque(maxlen=KEPT_RUNS))

    def add(self, traces: Sequence[Trace], note: str) -> None:
        """A sampling is over: its traces, of which there may be none, and what to know of it."""
        self.traces.extend(traces)
        self.notes.append(note)
        self.ends.append(End(traces[-1] if traces else None, note))

    def ended_with(self, latents: Any) -> None:
        """The last sampling ended with these latents."""
        if self.ends:
            self.ends[-1] = replace(self.ends[-1], latents=Entries.of(latents))

    def of(self, samples: Any) -> End:
        """Return the sampling that ended with these samples; if none did, the last one, with that as its note."""
        these = Entries.of(samples)
        last = self.ends[-1] if self.ends else End(None, "")
        if these is None or last.latents is None:
            return last
        alike = (end for end in reversed(self.ends) if end.latents is not None and these.same_as(end.latents))
        return next(alike, replace(last, note=OTHER))
