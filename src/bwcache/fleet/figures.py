"""What is said of one video: what it was made of, how fast, what was reused and why, what it held."""

from __future__ import annotations

import statistics
from typing import Any

from bwcache.core.trace import Trace, reuse_line
from bwcache.measure.call import Call, Request


def figures(request: Request, policy: Any, made: Call, trace: Trace | None, notes: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures of a video, ready for JSON.

    Args:
        request: what was asked for.
        policy: what decided, or None.
        made: the call.
        trace: with `timing=True`, or None.
        notes: what a person should know.
    """
    found: dict[str, Any] = {
        **request.record(),
        **dict(zip(("frames", "height", "width"), made.frames.shape, strict=False)),
        "policy": policy.describe() if policy is not None else None,
        "seconds": made.seconds,
        "denoise_seconds": made.denoise_seconds,
        "before_seconds": made.before_seconds,
        "after_seconds": made.after_seconds,
        "notes": list(notes),
    }
    if trace is None:
        return found
    summary = trace.summary()
    speedup = estimated_speedup(trace, made.denoise_seconds)
    return found | {
        "computed": summary.computed,
        "reused": summary.reused,
        "reuse_rate": summary.reuse_rate,
        "timeline": reuse_line(trace.events),
        "estimated_speedup": speedup,
        "estimated_speedup_in_all": in_all(speedup, made),
        "device_bytes": trace.peak_bytes,
        "host_bytes": trace.host_bytes,
        "reasons": summary.reasons,
    }


def in_all(speedup: float | None, made: Call) -> float | None:
    """Return what a speedup of the denoising is of the whole call, in which text encoder and decoder take their time.

    Args:
        speedup: of the denoising; None where it is not known.
        made: the call.
    """
    if speedup is None or made.denoise_seconds is None or made.seconds <= 0:
        return None
    return (made.seconds + (speedup - 1) * made.denoise_seconds) / made.seconds


def estimated_speedup(trace: Trace, seconds: float | None) -> float | None:
    """Return how many times longer the denoising would have taken had every reused row cost what a computed one does.

    An estimate from one run: the median time of the computed rows of a site in place of each reused one.

    Args:
        trace: of the run, with times.
        seconds: of its denoising.

    Returns:
        None where a time is missing.
    """
    if seconds is None or any(event.seconds is None for event in trace.events):
        return None
    saved = 0.0
    for site in trace.sites:
        rows = [event for event in trace.events if event.site == site]
        computed = [event.seconds or 0.0 for event in rows if event.action != "reuse"]
        usual = statistics.median(computed) if computed else 0.0
        saved += sum(max(usual - (event.seconds or 0.0), 0.0) for event in rows if event.action == "reuse")
    return (seconds + saved) / seconds if seconds > 0 else None
