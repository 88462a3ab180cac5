"""What a run keeps between steps: past features by (lane, site), and how many bytes that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bwcache.features.offload import Arrival, Offload

Key = tuple[str, str]
"""(lane, site)"""

Signature = tuple[object, ...]
"""Shapes, dtypes and devices of a site's inputs: features are only good for the same ones."""

Copied = Callable[[Tensor, Tensor | None], Tensor]
"""A copy of the first tensor, over the second one if it is given: a model may write into what it returned."""


@dataclass
class Slot:
    """The past of one site in one lane, newest first: `(coordinate, feature per stream)`, and where each was made."""

    signature: Signature
    past: list[tuple[float, dict[str, Tensor]]] = field(default_factory=list)
    devices: dict[str, torch.device] = field(default_factory=dict)

    def push(self, coordinate: float, streams: dict[str, Tensor], history: int, copied: Copied) -> None:
        """Copies the streams in, over the oldest once `history` are held."""
        over: dict[str, Tensor] = {}
        if len(self.past) >= history and self._fits(self.past[-1][1], streams):
            _, over = self.past.pop()
        kept = {name: copied(stream, over.get(name)) for name, stream in streams.items()}
        self.devices = {name: stream.device for name, stream in streams.items()}
        self.past.insert(0, (coordinate, kept))
        del self.past[history:]

    def _fits(self, kept: dict[str, Tensor], new: dict[str, Tensor]) -> bool:
        """Whether the new streams can be copied over the kept ones."""
        return kept.keys() == new.keys() and all(
            old.shape == new[name].shape and old.dtype == new[name].dtype and self.devices.get(name) == new[name].device
            for name, old in kept.items()
        )

    @property
    def nbytes(self) -> int:
        """Bytes held, wherever."""
        return sum(tensor.nbytes for _, streams in self.past for tensor in streams.values())


class FeatureStore:
    """Past features of one run. Belongs to the run and goes with it.

    Args:
        offload: whether they wait in main memory, and not on the device that made them.
    """

    def __init__(self, offload: bool = False) -> None:
        self._slots: dict[Key, Slot] = {}
        self._offload = Offload() if offload else None
        self._arrivals: dict[Key, list[tuple[float, dict[str, Arrival]]]] = {}

    def get(self, key: Key) -> Slot | None:
        """The slot of a site in a lane, or None where nothing was computed yet."""
        return self._slots.get(key)

    def put(self, key: Key, signature: Signature, coordinate: float, streams: dict[str, Tensor], history: int) -> None:
        """Adds a computed feature; a new signature drops what was there."""
        self._arrivals.pop(key, None)
        slot = self._slots.get(key)
        if slot is None or slot.signature != signature:
            slot = self._slots[key] = Slot(signature)
        slot.push(coordinate, streams, history, _copied if self._offload is None else self._offload.out)

    def expect(self, key: Key) -> None:
        """Begins to bring a site's past to the device, where it waits in main memory: `past` will be asked for it."""
        slot = self._slots.get(key)
        if self._offload is None or slot is None or key in self._arrivals:
            return
        self._arrivals[key] = [
            (coordinate, {name: self._offload.back(kept, slot.devices[name]) for name, kept in streams.items()})
            for coordinate, streams in slot.past
        ]

    def past(self, key: Key) -> dict[str, list[tuple[float, Tensor]]]:
        """The past of each stream of a site as predictors read it, on the device; empty where there is none.

        What was brought from main memory is let go of: whoever asks again has it brought again.
        """
        self.expect(key)
        slot = self._slots.get(key)
        entries = [] if slot is None else slot.past
        if self._offload is not None:
            arrived = self._arrivals.pop(key, [])
            entries = [(at, {name: one.taken() for name, one in streams.items()}) for at, streams in arrived]
        names = dict.fromkeys(name for _, streams in entries for name in streams)
        return {name: [(at, streams[name]) for at, streams in entries if name in streams] for name in names}

    def drop_lane(self, lane: str) -> None:
        """Forgets all sites of a lane."""
        for key in [key for key in self._slots if key[0] == lane]:
            self.drop(key)

    def drop(self, key: Key) -> None:
        """Forgets a site of a lane."""
        self._slots.pop(key, None)
        self._arrivals.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Bytes held on the devices that compute."""
        arrived = (streams for entries in self._arrivals.values() for _, streams in entries)
        passing = sum(arrival.tensor.nbytes for streams in arrived for arrival in streams.values())
        return passing + (self._held if self._offload is None else 0)

    @property
    def host_bytes(self) -> int:
        """Bytes held in main memory in their place."""
        return 0 if self._offload is None else self._held

    @property
    def _held(self) -> int:
        return sum(slot.nbytes for slot in self._slots.values())

    def full_bytes(self, history: int) -> int:
        """What `nbytes` will be when each site holds `history` features like those it has."""
        if self._offload is not None:
            return 0
        return sum(slot.nbytes // len(slot.past) * max(history, len(slot.past)) for slot in self._slots.values())

    def growth(self, key: Key, signature: Signature, streams: dict[str, Tensor], history: int) -> int:
        """Bytes by which `nbytes` grows with this feature and those to come until `history` are held; may be < 0."""
        if self._offload is not None:
            return 0
        new = sum(stream.nbytes for stream in streams.values())
        slot = self._slots.get(key)
        if slot is None or slot.signature != signature:
            return new * history - (0 if slot is None else slot.nbytes)
        return new * max(history - len(slot.past), 0)


def _copied(feature: Tensor, over: Tensor | None = None) -> Tensor:
    feature = feature.detach()
    return feature.clone() if over is None else over.copy_(feature)
