"""What is kept of a site between steps: copies of its past features, and how many bytes that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.offload import Arrival, Offload

Signature = tuple[object, ...]
"""Shapes, dtypes and devices of a site's inputs, and autocast: features are only good for the same ones."""

Streams = dict[str, Tensor]


@dataclass(slots=True)
class Held:
    """Bytes that all slots of a run hold, and where they wait between steps.

    Attributes:
        offload: brings features to main memory and back, or None where they stay on the device.
        device, host: bytes held on the devices that compute, and in main memory in their place.
        passing: bytes that were brought back and wait to be read.
        sampled: bytes that taps hold, and the samples by which predictions are judged.
    """

    offload: Offload | None = None
    kept: int = 0
    passing: int = 0
    sampled: int = 0

    @property
    def device(self) -> int:
        """Bytes on the devices that compute."""
        return self.passing + (self.kept if self.offload is None else 0)

    @property
    def host(self) -> int:
        """Bytes in main memory in their place."""
        return 0 if self.offload is None else self.kept


@dataclass(eq=False, slots=True)
class Slot:
    """The past of one site in one lane, newest first.

    Attributes:
        held: what counts its bytes.
        signature: of what entered the site when these were made.
        past: steps and what was kept of each: features by stream.
    """

    held: Held
    signature: Signature = ()
    past: list[tuple[Step, Streams]] = field(default_factory=list)
    _devices: dict[str, torch.device] = field(default_factory=dict)
    _arrivals: list[dict[str, Arrival]] | None = None
    _nbytes: int = 0

    def push(self, signature: Signature, step: Step, streams: Streams, history: int) -> None:
        """Copy computed features in, over the oldest once `history` are held; a new signature drops what was there."""
        if self._arrivals is not None:
            self._let_go()
        past, offload = self.past, self.held.offload
        if self.signature != signature:
            past.clear()
            self.signature = signature
        over: Streams = {}
        if len(past) >= history and self._fits(past[-1][1], streams):
            _, over = past.pop()
        kept: Streams = {}
        with outside_inference_mode() if torch.is_inference_mode_enabled() else _NOTHING:
            for name, stream in streams.items():
                stream = without_gradient(stream)
                self._devices[name] = stream.device
                place = over.get(name)
                if offload is not None:
                    kept[name] = offload.out(stream, place)
                else:
                    kept[name] = stream.clone() if place is None else place.copy_(stream)
        past.insert(0, (step, kept))
        del past[history:]
        self._count()

    def prefetch(self) -> None:
        """Begin to bring the past to the device, where it waits in main memory: `read` will be asked for it."""
        offload = self.held.offload
        if offload is None or self._arrivals is not None:
            return
        self._arrivals = [
            {name: offload.back(kept, self._devices[name]) for name, kept in streams.items()}
            for _, streams in self.past
        ]
        self.held.passing += self._nbytes

    def read(self) -> dict[str, list[tuple[Step, Tensor]]]:
        """Return the past of each stream as predictors read it, on the device; empty where there is none.

        What was brought from main memory is let go of: whoever asks again has it brought again.
        """
        entries = self.past
        if self.held.offload is not None:
            self.prefetch()
            arrived = zip(self.past, self._arrivals or (), strict=True)
            entries = [(step, {name: one.taken() for name, one in streams.items()}) for (step, _), streams in arrived]
            self._let_go()
        if len(entries) == 1:
            step, streams = entries[0]
            return {name: [(step, feature)] for name, feature in streams.items()}
        names = dict.fromkeys(name for _, streams in entries for name in streams)
        return {name: [(step, streams[name]) for step, streams in entries if name in streams] for name in names}

    def drop(self) -> None:
        """Forget all."""
        self._let_go()
        self.past.clear()
        self._count()

    def full_bytes(self, history: int) -> int:
        """Return the bytes on the device when `history` features like those it has are held."""
        if self.held.offload is not None or not self.past:
            return 0
        return self._nbytes // len(self.past) * max(history, len(self.past))

    def growth(self, signature: Signature, streams: Streams, history: int) -> int:
        """Return the bytes on the device to come with this feature and those until `history` are held; may be < 0."""
        if self.held.offload is not None:
            return 0
        new = sum(stream.nbytes for stream in streams.values())
        if not self.past or self.signature != signature:
            return new * history - self._nbytes
        return new * max(history - len(self.past), 0)

    def _count(self) -> None:
        before, now = self._nbytes, 0
        for _, streams in self.past:
            for kept in streams.values():
                now += kept.nbytes
        self._nbytes = now
        self.held.kept += now - before

    def _let_go(self) -> None:
        if self._arrivals is not None:
            self._arrivals = None
            self.held.passing -= self._nbytes

    def _fits(self, kept: Streams, new: Streams) -> bool:
        """Whether the new streams can be copied over the kept ones."""
        if kept.keys() != new.keys():
            return False
        for name, old in kept.items():
            other = new[name]
            if old.shape != other.shape or old.dtype != other.dtype or self._devices[name] != other.device:
                return False
        return True


def without_gradient(feature: Tensor) -> Tensor:
    """Return a feature without the gradient that hangs on it, if one does: to ask is cheaper than to detach."""
    return feature.detach() if feature.requires_grad else feature


@contextmanager
def _normal() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


_NOTHING = nullcontext()


def outside_inference_mode() -> AbstractContextManager[None]:
    """Return what makes tensors that live on be normal ones: a run may go over to `no_grad`, or come from there."""
    return _normal() if torch.is_inference_mode_enabled() else _NOTHING
