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
    On a CUDA device two events on the stream are compared, so nothing is synchronised while the pipeline runs.

        with DenoiseTimer(pipe) as timer:
            pipe("a red ball")
        timer.seconds

    Raises:
        NoBlocksFound: the pipeline has no denoiser that is known.
    """

    def __init__(self, pipe: Any) -> None:
        self.forwards = 0
        """Denoiser forwards seen."""
        self.seconds: float | None = None
        """Denoising time; None until the block is left, and when no forward was seen."""
        self._modules = tuple(denoisers(pipe).values())
        self._start: Any = None
        self._end: Any = None
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> DenoiseTimer:
        for module in self._modules:
            self._hooks.callback(module.register_forward_pre_hook(self._before).remove)
            self._hooks.callback(module.register_forward_hook(self._after).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        if self._end is None:
            return
        if isinstance(self._end, float):
            self.seconds = self._end - self._start
        else:
            self._end.synchronize()
            self.seconds = self._start.elapsed_time(self._end) / 1000.0

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if self._start is None:
            if _on_cuda(module):
                torch.cuda.synchronize()
                self._start, self._end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                self._start.record()
            else:
                self._start = time.perf_counter()

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.forwards += 1
        if isinstance(self._start, float):
            self._end = time.perf_counter()
        else:
            self._end.record()


def _on_cuda(module: nn.Module) -> bool:
    """Whether a module computes on a CUDA device, also when its weights wait in main memory (offloading)."""
    hook = getattr(module, "_hf_hook", None)
    where = getattr(hook, "execution_device", None)
    if where is None:
        where = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    return torch.cuda.is_available() and (isinstance(where, int) or torch.device(where).type == "cuda")
