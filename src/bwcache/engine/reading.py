"""What forwards measured, on its way from the device to the host.

On CUDA the numbers set out as soon as the forward has been given to the device, into pinned memory. Whoever wants them
later waits for that copy alone, not for what was given to the device since.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Reading:
    """The numbers of one forward.

    Args:
        parts: `[n]` float32 each, on any device.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = list(parts)
        self._copied: torch.cuda.Event | None = None
        if self.parts and self.parts[0].is_cuda:
            self._set_out()

    def _set_out(self) -> None:
        device = self.parts[0].device
        joined = torch.cat([part.to(device) for part in self.parts])
        host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        with torch.cuda.device(device):
            host.copy_(joined, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self.parts = [host]

    def wait(self) -> None:
        """Until the numbers are there."""
        if self._copied is not None:
            self._copied.synchronize()


def arrived(readings: Sequence[Reading]) -> list[float]:
    """All numbers, in order; waits for them."""
    for reading in readings:
        reading.wait()
    parts = [part for reading in readings for part in reading.parts]
    return torch.cat([part.to(parts[0].device) for part in parts]).tolist() if parts else []
