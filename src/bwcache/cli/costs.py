"""What a long command will take, told beforehand by a short timed call."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

TIMED_STEPS = 2


def timed(pipe: Any, request: Any) -> tuple[float, float]:
    """Return the seconds of a step, and those of the rest of a call: text encoding and decoding.

    Two calls of `TIMED_STEPS` steps are made, of which the second counts.
    """
    from bwcache.measure.call import call

    few = dataclasses.replace(request, steps=TIMED_STEPS)
    call(pipe, few, "warm-up")
    start = time.perf_counter()
    done = call(pipe, few, "timed")
    seconds = time.perf_counter() - start
    step = (done.denoise_seconds or seconds) / TIMED_STEPS
    return step, max(seconds - step * TIMED_STEPS, 0.0)


def duration(seconds: float) -> str:
    """Return a time in words, rounded up."""
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
