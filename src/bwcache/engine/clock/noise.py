"""How much of the latents is noise, whatever a scheduler calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def shares(
    scheduler: Any, timesteps: Sequence[float], sigmas: Sequence[float] | None, begin: int = 0
) -> tuple[float, ...] | None:
    """Share of noise at each step of a schedule and after the last one, 1..0; None where the scheduler does not say.

    Latents are (1 - share) data + share noise, up to their scale.

    Args:
        scheduler: asked for its `alphas_cumprod` where it has no sigmas.
        timesteps: of the steps, in sampling order.
        sigmas: all of the scheduler's, or None where it has none. In flow matching they are shares already, from 0 up
            to 1 in Mochi; else they are noise over data, which exceeds 1 somewhere.
        begin: where among the sigmas the first step stands.
    """
    if sigmas is None:
        return _of_signal(getattr(scheduler, "alphas_cumprod", None), timesteps)
    levels = [*sigmas[begin : begin + len(timesteps) + 1]]
    if sigmas[0] < sigmas[len(sigmas) - 2]:
        levels = [1 - level for level in levels]
    elif max(sigmas) > 1 + 1e-3:
        levels = [level / (1 + level) for level in levels]
    return tuple(levels) if len(levels) > len(timesteps) else (*levels, 0.0)


def _of_signal(kept: Sequence[float] | None, timesteps: Sequence[float]) -> tuple[float, ...] | None:
    """By the share of the data's variance that is kept at each training step (DDPM's notation)."""
    if kept is None or min(timesteps) < 0 or max(timesteps) >= len(kept):
        return None
    signal = [float(kept[int(timestep)]) for timestep in timesteps]
    return (*((1 - a) ** 0.5 / ((1 - a) ** 0.5 + a**0.5) for a in signal), 0.0)
