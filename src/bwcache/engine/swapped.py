"""A denoiser evaluated twice more in each step: with only its latents, and with only its time, moved on since the last.

That is what taps of the ends "by latents" and "by time" ask for: how far what the denoiser returned in the step before
would have been from what it would have returned with the latents of now, or at the time of now. Each costs a forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bwcache.engine import returned as returned_values
from bwcache.engine.forward import Forward
from bwcache.features import relative_l1
from bwcache.features.store import outside_inference_mode


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A call of the denoiser: the latents, all arguments, and what it predicted."""

    latents: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    prediction: Tensor


@dataclass(frozen=True, slots=True)
class Swapped:
    """The call of a denoiser within a forward, which also evaluates what the taps ask for.

    Attributes:
        forward: whose plan has such taps.
        inner: the denoiser.
        beside: the denoiser in a forward that is no step.
    """

    forward: Forward
    inner: Callable[..., Any]
    beside: Callable[[tuple[Any, ...], dict[str, Any]], Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the denoiser returns."""
        forward = self.forward
        stream = forward.plan.stack.root.streams[0]
        found, latents = self.inner(*args, **kwargs), stream.read(args, kwargs)
        prediction = _prediction(found)
        if prediction is None or not isinstance(latents, Tensor):
            return found
        key = " ".join(lane.name for lane in forward.lanes)
        before = forward.run.evaluated.get(key)
        if before is not None and before.latents.shape == latents.shape:
            by_latents = self.beside(*stream.replaced(latents, before.args, before.kwargs))
            by_time = self.beside(*stream.replaced(before.latents, args, kwargs))
            self._measure("by latents", _prediction(by_latents), before.prediction)
            self._measure("by time", _prediction(by_time), before.prediction)
        with outside_inference_mode():
            own = Evaluated(latents.detach().clone(), args, kwargs, prediction.detach().clone())
        forward.run.evaluated[key] = own
        return found

    def _measure(self, end: str, new: Tensor | None, old: Tensor) -> None:
        plan, measuring = self.forward.plan, self.forward.measuring
        if new is None or new.shape != old.shape:
            return
        rows = self.forward.rows.at(0)
        for number, tap in ((i, plan.taps[tap]) for i, tap in enumerate(plan.looks)):
            if tap.end == end:
                for j in range(len(self.forward.lanes)):
                    indicator = tap.indicator or relative_l1
                    measuring.note(j, number, indicator(rows.of(new, j)[None], rows.of(old, j)[None]))


def _prediction(returned: Any) -> Tensor | None:
    tensors, _ = returned_values.taken_apart(returned)
    found = tensors.get(returned_values.prediction(tensors)) if tensors else None
    return found if isinstance(found, Tensor) else None
