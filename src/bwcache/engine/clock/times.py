"""Which of a scheduler's timesteps a denoiser is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Time

_FORMS: tuple[Callable[[float], float], ...] = (
    lambda t: t,
    lambda t: 1000 - t,  # Mochi
    lambda t: 1000 * t,
    lambda t: 1000 * (1 - t),  # Lumina, Z-Image
)
"""How models name the scheduler's timestep, undone."""


def numbers(values: Any) -> list[float] | None:
    """Return what a scheduler holds as its times or sigmas: a row of numbers, of whatever kind; None for anything else.

    Reads the device.
    """
    if not isinstance(values, (list, tuple)):
        if getattr(values, "ndim", 0) != 1 or not hasattr(values, "tolist"):
            return None
        values = values.tolist()
    plain = all(isinstance(value, (int, float)) for value in values)
    return [float(value) for value in values] if plain else None


def is_near(value: float, listed: float, forms: Sequence[Callable[[float], float]] = _FORMS) -> bool:
    """Return whether a model's timestep is the scheduler's, in one of the forms and as far as bfloat16 can tell."""
    return any(abs(listed - form(value)) <= abs(listed) / 256 + 1e-3 for form in forms)


def place(time: Time, scheduler: Any, at: int | None = None) -> int:
    """Return where in the scheduler's timesteps this one stands, the first of the nearest; -1 where nowhere.

    Args:
        at: only look at this position.
    """
    if time.place is not None:
        return time.place if at in (None, time.place) else -1
    value, times = time.value, numbers(getattr(scheduler, "timesteps", None))
    if value is None or times is None:
        return -1
    listed = {i: t for i, t in enumerate(times) if at in (None, i)}
    plain = value > 1 and any(is_near(value, t, _FORMS[:1]) for t in listed.values())  # 400 is not 600 backwards
    forms = _FORMS[:1] if plain else _FORMS
    near = [i for i, t in listed.items() if is_near(value, t, forms)]
    return min(near, key=lambda i: min(abs(listed[i] - form(value)) for form in forms), default=-1)


def exact_place(time: Time, scheduler: Any) -> int:
    """Return where in the scheduler's timesteps this very one stands; 0 where it was rounded or is not there."""
    found = place(time, scheduler)
    if found <= 0:
        return 0
    value, listed = time.value, float(scheduler.timesteps[found])
    assert value is not None
    return found if any(abs(listed - form(value)) <= 1e-2 for form in _FORMS) else 0
