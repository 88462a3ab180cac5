"""What a run keeps between steps: past features by (branch, site), and how many bytes that is."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from bwcache.features.taps import comparable

Key = tuple[str, str]
"""(branch, site)"""

Signature = tuple[object, ...]
"""Shapes, dtypes and devices of a site's inputs: features are only good for the same ones."""


@dataclass
class Slot:
    """The past of one site in one branch, newest first: `(coordinate, feature per stream)`."""

    signature: Signature
    past: list[tuple[float, tuple[Tensor, ...]]] = field(default_factory=list)

    def push(self, coordinate: float, streams: tuple[Tensor, ...], history: int) -> None:
        """Copies the streams in, over the oldest once `history` are held: a model may write into what it returned."""
        if len(self.past) >= history and _alike(self.past[-1][1], streams):
            _, kept = self.past.pop()
            for old, new in zip(kept, streams, strict=True):
                old.copy_(new.detach())
        else:
            kept = tuple(stream.detach().clone() for stream in streams)
        self.past.insert(0, (coordinate, kept))
        del self.past[history:]

    def stream(self, i: int) -> list[tuple[float, Tensor]]:
        """The past of the i-th stream, as predictors read it."""
        return [(coordinate, streams[i]) for coordinate, streams in self.past]


class FeatureStore:
    """Past features of one run. Belongs to the run and goes with it."""

    def __init__(self) -> None:
        self._slots: dict[Key, Slot] = {}

    def get(self, key: Key) -> Slot | None:
        """The slot of a site in a branch, or None where nothing was computed yet."""
        return self._slots.get(key)

    def put(self, key: Key, signature: Signature, coordinate: float, streams: tuple[Tensor, ...], history: int) -> None:
        """Adds a computed feature; a new signature drops what was there."""
        slot = self._slots.get(key)
        if slot is None or slot.signature != signature:
            slot = self._slots[key] = Slot(signature)
        slot.push(coordinate, streams, history)

    def drop_branch(self, branch: str) -> None:
        """Forgets all sites of a branch."""
        for key in [key for key in self._slots if key[0] == branch]:
            del self._slots[key]

    def drop(self, key: Key) -> None:
        """Forgets a site of a branch."""
        self._slots.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for slot in self._slots.values() for _, streams in slot.past for tensor in streams)


def _alike(kept: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> bool:
    return all(comparable(a, b) for a, b in zip(kept, new, strict=True))
