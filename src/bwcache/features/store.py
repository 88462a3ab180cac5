"""What a run keeps between steps: past features by (lane, site), and how many bytes that is."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from bwcache.features.taps import comparable

Key = tuple[str, str]
"""(lane, site)"""

Signature = tuple[object, ...]
"""Shapes, dtypes and devices of a site's inputs: features are only good for the same ones."""


@dataclass
class Slot:
    """The past of one site in one lane, newest first: `(coordinate, feature per stream)`."""

    signature: Signature
    past: list[tuple[float, dict[str, Tensor]]] = field(default_factory=list)

    def push(self, coordinate: float, streams: dict[str, Tensor], history: int) -> None:
        """Copies the streams in, over the oldest once `history` are held: a model may write into what it returned."""
        if len(self.past) >= history and _alike(self.past[-1][1], streams):
            _, kept = self.past.pop()
            for name, new in streams.items():
                kept[name].copy_(new.detach())
        else:
            kept = {name: stream.detach().clone() for name, stream in streams.items()}
        self.past.insert(0, (coordinate, kept))
        del self.past[history:]

    def stream(self, name: str) -> list[tuple[float, Tensor]]:
        """The past of one stream, as predictors read it; empty where the site has no such stream."""
        return [(coordinate, streams[name]) for coordinate, streams in self.past if name in streams]


class FeatureStore:
    """Past features of one run. Belongs to the run and goes with it."""

    def __init__(self) -> None:
        self._slots: dict[Key, Slot] = {}

    def get(self, key: Key) -> Slot | None:
        """The slot of a site in a lane, or None where nothing was computed yet."""
        return self._slots.get(key)

    def put(self, key: Key, signature: Signature, coordinate: float, streams: dict[str, Tensor], history: int) -> None:
        """Adds a computed feature; a new signature drops what was there."""
        slot = self._slots.get(key)
        if slot is None or slot.signature != signature:
            slot = self._slots[key] = Slot(signature)
        slot.push(coordinate, streams, history)

    def drop_lane(self, lane: str) -> None:
        """Forgets all sites of a lane."""
        for key in [key for key in self._slots if key[0] == lane]:
            del self._slots[key]

    def drop(self, key: Key) -> None:
        """Forgets a site of a lane."""
        self._slots.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        kept = (streams for slot in self._slots.values() for _, streams in slot.past)
        return sum(tensor.nbytes for streams in kept for tensor in streams.values())


def _alike(kept: dict[str, Tensor], new: dict[str, Tensor]) -> bool:
    return kept.keys() == new.keys() and all(comparable(kept[name], new[name]) for name in new)
