"""What a computed forward measured, on its way from the device to the host: one vector.

It is agreed among the ranks that work on one video once, copied once, and read once, late: when the next decision needs
it. On CUDA it sets out as soon as the forward has been given to the device, into pinned memory; whoever wants it waits
for that copy alone, not for what was given to the device since.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import torch.distributed as dist

    from bwcache.engine.ranks import Parts


class Numbers:
    """The numbers of one forward, float32.

    Args:
        ranks: those that have parts of one video: what each measured on its part is added up, before anybody divides.
            All of them have the same parts, absent or not, so their vectors are of one length. None: a single process.
    """

    def __init__(self, ranks: Parts | None = None) -> None:
        self._ranks = ranks
        self._parts: list[Tensor] = []
        self._there: list[float] = []
        self._size = 0
        self._vector: Tensor | None = None
        self._work: dist.Work | None = None
        self._copied: torch.cuda.Event | None = None
        self._values: list[float] | None = None

    def add(self, part: Tensor | None, size: int) -> slice | None:
        """Take `size` numbers on any device, or None, and return where they will stand; None: nowhere."""
        if self._ranks is None and part is None:
            return None
        place = slice(self._size, self._size + size)
        self._parts.append(torch.zeros(size) if part is None else part)
        self._there += [float(part is not None)] * size
        self._size += size
        return place

    def set_out(self) -> None:
        """Send them on their way: there are no more to come."""
        if not self._parts:
            return
        device = self._parts[0].device
        for part in self._parts:
            device = part.device if device.type == "cpu" else device
        if self._ranks is not None:
            device = self._ranks.device
            self._parts.append(torch.tensor(self._there))
        vector = _joined([part.to(device, torch.float32) for part in self._parts])
        self._parts = []
        if self._ranks is not None:
            self._work = self._ranks.add_up(vector)
        self._vector = self._on_its_way(vector) if vector.is_cuda else vector

    def wait(self) -> None:
        """Wait until all ranks have added theirs, and for the copy."""
        if self._work is not None:
            self._work.wait()
        if self._copied is not None:
            self._copied.synchronize()

    def _on_its_way(self, vector: Tensor) -> Tensor:
        if self._work is not None:
            self._work.wait()  # on a device it is the stream that waits
        host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
        with torch.cuda.device(vector.device):
            host.copy_(vector, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        return host

    def read(self, place: slice | None) -> list[float] | None:
        """Return what stands at a place; None where nothing does, or where some rank had nothing there. Waits."""
        if place is None or self._vector is None:
            return None
        if self._values is None:
            arrive([self])
        assert self._values is not None
        if self._ranks is not None and self._values[self._size + place.start] < self._ranks.count:
            return None
        return self._values[place]


def _joined(parts: list[Tensor]) -> Tensor:
    """All numbers in order, as one vector; single ones, which may be many, in one call."""
    pieces = []
    for is_one, group in groupby(parts, lambda part: part.ndim == 0):
        some = list(group)
        pieces += [torch.stack(some)] if is_one else [part.flatten() for part in some]
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).detach()


def arrive(several: Iterable[Numbers | None]) -> None:
    """Read the numbers of several forwards at once, of those that have any; waits."""
    unread, vectors = [], []
    for one in dict.fromkeys(several):
        if one is None or one._vector is None or one._values is not None:
            continue
        one.wait()
        unread.append(one)
        vectors.append(one._vector)
    if not vectors:
        return
    together = vectors[0] if len(vectors) == 1 else torch.cat([vector.to(vectors[0].device) for vector in vectors])
    values = together.tolist()
    for one, vector in zip(unread, vectors, strict=True):
        one._values, values = values[: len(vector)], values[len(vector) :]
