"""How long a pipeline spends denoising, measured from outside by hooks that every module offers."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any

import torch
from torch import nn

from bwcache.models import denoisers


class DenoiseTimer:
    """Seconds from the start of the first denoiser forward to the end of the last one, within one pipeline call.

    What lies between the forwards (guidance, the scheduler's step) is part of it; text encoding and decoding are not.
    On a CUDA device events on the stream are compared, so nothing is synchronised once the first forward has begun.
    Other accelerators are waited for before and after each forward: they too return before the work is done.

        with DenoiseTimer(pipe) as timer:
            pipe("a red ball")
        timer.seconds

    Raises:
        NoBlocksFoundError: the pipeline has no denoiser that is known.
    """

    def __init__(self, pipe: Any) -> None:
        self.forwards = 0
        """Denoiser forwards seen."""
        self.seconds: float | None = None
        """Denoising time; None until the block is left, and when no forward was seen."""
        self.before_seconds: float | None = None
        """From the beginning to the first forward: text encoding and noise; None as `seconds`."""
        self.forward_seconds: float | None = None
        """Inside the forwards; the rest of the denoising is guidance and the scheduler; None as `seconds`."""
        self._modules = tuple(denoisers(pipe).values())
        self._device = computing_device(pipe)
        self._begun = 0.0
        self._marks: list[tuple[Any, Any]] = []
        self._entered: Any = None
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> DenoiseTimer:
        before, after = torch.compiler.disable(self._before), torch.compiler.disable(self._after)
        for module in self._modules:
            self._hooks.callback(module.register_forward_pre_hook(before).remove)
            self._hooks.callback(module.register_forward_hook(after).remove)
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        if self._marks and error is None:
            self.seconds = self._between(self._marks[0][0], self._marks[-1][1])
            self.forward_seconds = sum(self._between(*marks) for marks in self._marks)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if self.before_seconds is None:
            finish_device_work(self._device)
            self.before_seconds = time.perf_counter() - self._begun
        self._entered = self._now()

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.forwards += 1
        self._marks.append((self._entered, self._now()))

    def _now(self) -> Any:
        """A moment: of the stream on a CUDA device, of the clock elsewhere, once an accelerator has done its work."""
        if self._device.type != "cuda":
            finish_device_work(self._device)
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, start: Any, end: Any) -> float:
        """Seconds from one moment to another."""
        if self._device.type != "cuda":
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000.0


def computing_device(pipe: Any) -> torch.device:
    """Where a pipeline computes, also when its weights wait in main memory (offloading)."""
    device = getattr(pipe, "_execution_device", None)  # diffusers' own answer, for every kind of offloading
    if device is None:
        weights = (weight for module in denoisers(pipe).values() for weight in module.parameters())
        device = next((weight.device for weight in weights), torch.device("cpu"))
    return torch.device(device)


def finish_device_work(device: torch.device) -> None:
    """Wait until everything that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type in ("mps", "xpu"):
        getattr(torch, device.type).synchronize()
