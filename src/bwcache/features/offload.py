"""Features in main memory: taken there while the model goes on, and brought back when they are wanted.

On CUDA both ways are asynchronous copies on a stream beside the one that computes, one for each device. Three things
keep them apart, and the host waits for none of them:

- whatever is in main memory is written and read on the stream beside alone, so these copies come in the order in which
  they were asked for: a feature is not overwritten before it was read, nor read before it is there;
- each way passes through a tensor of its own on the device, which no model can write into;
- the allocator is told (`record_stream`) that both streams use this tensor, so that its memory is not given away while
  one of them still does, even if nobody waits for the copy because the run broke off.

On other devices the same copies are made in place, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Arrival:
    """A feature on its way to the device, and what tells when it is there; None: it is."""

    tensor: Tensor
    there: torch.cuda.Event | None = None

    def taken(self) -> Tensor:
        """The feature: what is queued on the present stream from now on finds it whole."""
        if self.there is not None:
            present = torch.cuda.current_stream(self.tensor.device)
            present.wait_event(self.there)
            self.tensor.record_stream(present)
        return self.tensor


class Offload:
    """Takes features to main memory and brings them back. Belongs to a run."""

    def __init__(self) -> None:
        self._beside: dict[torch.device, torch.cuda.Stream] = {}

    def out(self, feature: Tensor, over: Tensor | None = None) -> Tensor:
        """A copy of a feature in main memory, pinned if it comes from CUDA: then only `back` may read it.

        Args:
            feature: on any device; it may be written into as soon as this returns.
            over: what an earlier call returned for a feature of the same shape, dtype and device, to be overwritten.
        """
        feature = feature.detach()
        if feature.device.type != "cuda":
            home = torch.empty_like(feature, device="cpu") if over is None else over
            return home.copy_(feature)
        own = feature.clone()  # the model may write into the feature while the slow copy is under way
        home = torch.empty_like(own, device="cpu", pin_memory=True) if over is None else over
        with torch.cuda.stream(self._behind(own.device)):
            home.copy_(own, non_blocking=True)
            own.record_stream(torch.cuda.current_stream(own.device))
        return home

    def back(self, home: Tensor, device: torch.device) -> Arrival:
        """A copy on the device of what `out` returned."""
        tensor = torch.empty_like(home, device=device)
        if device.type != "cuda":
            return Arrival(tensor.copy_(home))
        # The new tensor's memory may have belonged to another one, which queued work still reads: hence behind it.
        with torch.cuda.stream(self._behind(device)):
            tensor.copy_(home, non_blocking=True)
            beside = torch.cuda.current_stream(device)
            tensor.record_stream(beside)
            return Arrival(tensor, beside.record_event())

    def _behind(self, device: torch.device) -> torch.cuda.Stream:
        """The stream beside the present one, which goes on when all that is queued there by now is done."""
        if device not in self._beside:
            self._beside[device] = torch.cuda.Stream(device)
        self._beside[device].wait_stream(torch.cuda.current_stream(device))
        return self._beside[device]
