"""A denoiser evaluated at another noise level than it is called at: what a decision's `at` asks for.

The latents are carried on the way that they came since the denoiser was last computed, the time is changed to match,
and of what is predicted there the prediction here is made that means the same clean latents. Nothing of the pipeline's
own is written into. Where it cannot be mapped for certain, it is evaluated in place, and the row of the trace says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bwcache.core import Decision
from bwcache.engine import returned as returned_values
from bwcache.engine.batch import BatchLayout
from bwcache.engine.clock import Clock
from bwcache.engine.clock.level import retimed
from bwcache.engine.forward import Forward, SiteCall
from bwcache.engine.lane import Lane
from bwcache.engine.root import axis_apart, on_shared
from bwcache.features.noise_level import NoiseLevel

NEAR = 1e-6
"""Shares of noise that differ by less are the same."""

_TIED = re.compile("timestep|sigma|noise|controlnet|residual|audio|sound")
"""Arguments that belong to the latents of now, if they are given: another time, what a ControlNet made of them."""

LATENTS = "latents"


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the denoiser is evaluated: the noise level, the latents there, and its arguments."""

    level: NoiseLevel
    latents: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The call of a denoiser within a forward, moved to where the decisions say.

    Attributes:
        forward: whose root keeps clean latents.
        clock: knows noise levels.
        inner: the denoiser.
    """

    forward: Forward
    clock: Clock
    inner: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the denoiser returns, as if it had been evaluated in place."""
        forward, level = self.forward, self.forward.begun.level
        found = next((call for call in forward.calls.values() if call.site.keeps == "clean"), None)
        latents = forward.plan.stack.root.streams[0].read(args, kwargs)
        if found is None or level is None or not isinstance(latents, Tensor):
            return self.inner(*args, **kwargs)
        moved = self._wanted(found, level, latents, args, kwargs)
        self._keep(found, latents)
        if moved is None:
            return self.inner(*args, **kwargs)
        tensors, frame = returned_values.taken_apart(self.inner(*moved.args, **moved.kwargs))
        name = returned_values.prediction(tensors)
        there = tensors[name]
        clean = on_shared(moved.level.clean, moved.latents, there)
        here = None if clean is None else on_shared(level.predicted, latents, clean)
        assert here is not None  # they lie as those did that were kept
        return frame.filled({**tensors, name: here.to(there.dtype)})

    def _wanted(
        self, found: SiteCall, level: NoiseLevel, latents: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Moved | None:
        """Where to evaluate; None: here. The decisions are completed by what is done."""
        asked = {decision.at for decision in found.decisions}
        at = asked.pop() if len(asked) == 1 else None
        if at is None or abs(at - level.share) < NEAR:
            found.decisions = [replace(decision, at=None) for decision in found.decisions]
            return None
        moved = self._moved(found, level, at, latents, args, kwargs)
        if isinstance(moved, str):
            found.decisions = [_in_place(decision, moved) for decision in found.decisions]
            return None
        found.decisions = [replace(decision, at=moved.level.share) for decision in found.decisions]
        return moved

    def _moved(
        self,
        found: SiteCall,
        level: NoiseLevel,
        at: float,
        latents: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Moved | str:
        """Where to evaluate, or why that is here."""
        forward, begun = self.forward, self.forward.begun
        tied = [name for name, value in begun.given.items() if value is not None and _TIED.search(str(name))]
        tied = [str(name) for name in tied if name not in begun.stack.known_arguments]
        if tied:
            return f"{tied[0]} belongs to the latents of now"
        time = retimed(begun, self.clock.caller, forward.steps[0], level, level.at(at))
        if isinstance(time, str):
            return time
        value, there = time
        rows = forward.rows.at(0)
        parts = []
        for j, lane in enumerate(forward.lanes):
            part = self._carried(lane, found, level, there, rows.of(latents, j))
            if part is None:
                return "not known yet where the latents go"
            parts.append(part)
        moved = rows.joined(parts)
        own = begun.stack.root.streams[0].replaced(moved, *begun.stack.timestep.replaced(value, args, kwargs))
        return Moved(there, moved, *own)

    def _carried(
        self, lane: Lane, found: SiteCall, level: NoiseLevel, there: NoiseLevel, latents: Tensor
    ) -> Tensor | None:
        """The latents of a lane at another level; what lies beside them stays. None: not known where they go."""
        kept, came = lane.slots.get(found.site.name), lane.slots.get(f"{found.site.name} {LATENTS}")
        if kept is None or came is None or not kept.past or not came.past or len(kept.past[0][1]) != 1:
            return None
        step, before = came.read()[LATENTS][0]
        was = self.clock.level(self.forward.begun, step)
        clean = next(iter(kept.past[0][1].values()))
        axis = axis_apart(latents, clean)
        if was is None or axis is None or before.shape != latents.shape:
            return None
        size = min(latents.shape[axis], clean.shape[axis])
        part = level.carried(latents.narrow(axis, 0, size), before.narrow(axis, 0, size), was, there)
        if part is None:
            return None
        moved = latents.clone()
        moved.narrow(axis, 0, size).copy_(part)
        return moved

    def _keep(self, found: SiteCall, latents: Tensor) -> None:
        """Keeps the latents: where they go is told by where they came from."""
        forward = self.forward
        if not forward.keeps or found.action == "check" or not forward.plan.policy.looks_ahead:
            return
        rows: BatchLayout = forward.rows.at(0)
        name = f"{found.site.name} {LATENTS}"
        for j, (step, lane) in enumerate(zip(forward.steps, forward.lanes, strict=True)):
            forward.run.keep(lane, name, found.signature, step, {LATENTS: rows.of(latents.detach(), j)}, 1)


def _in_place(decision: Decision, why: str) -> Decision:
    """The decision with the reason why it is evaluated where it is called."""
    reason = decision.reason
    said = f"{reason[:-1]}; in place: {why})" if reason.endswith(")") else f"{reason} (in place: {why})"
    return replace(decision, at=None, reason=said)
