"""Time on the device: perf_counter on a CPU, events on CUDA, which cost no synchronisation while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

Mark = float | torch.cuda.Event
"""A point in time: seconds as a float, or a recorded CUDA event."""


def clock(device: torch.device) -> Callable[[], Mark]:
    """What gives the present point in the order of a device's work each time it is called."""
    return time.perf_counter if device.type != "cuda" else partial(_event, device)


def mark(device: torch.device) -> Mark:
    """Now, in the order of the device's work."""
    return clock(device)()


def _event(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds(intervals: list[tuple[Mark, Mark]]) -> float:
    """The sum of intervals between marks, in seconds; waits for CUDA events."""
    total = 0.0
    for start, end in intervals:
        if isinstance(start, float) and isinstance(end, float):
            total += end - start
        else:
            assert isinstance(start, torch.cuda.Event)
            assert isinstance(end, torch.cuda.Event)
            end.synchronize()
            total += start.elapsed_time(end) / 1000
    return total
