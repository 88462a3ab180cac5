"""What a peer holds between forwards: the tensors that can be reached from its state, each storage once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import nn

PLAIN = (str, bytes, int, float, bool, complex, type(None), torch.dtype, torch.device, type)


class KeptBytes:
    """Looks at a peer's state after forwards, at fewer and fewer of them: a look costs time that is measured.

    Looks come after the forwards 1, 2, 3, 4, 6, 8, 11, 15, …: a dozen in a run. What such caches hold grows at the
    beginning and stays.

    Args:
        states: gives the objects that hold the tensors.
    """

    def __init__(self, states: Callable[[], Sequence[Any]]) -> None:
        self.highest = 0
        """Bytes, the most that was seen."""
        self._states = states
        self._forwards = 0
        self._next = 1

    def look(self, *_: Any) -> None:
        """To be called after a forward of a denoiser."""
        self._forwards += 1
        if self._forwards == self._next:
            self._next = max(self._next + 1, int(self._next * 1.4))
            self.highest = max(self.highest, tensor_bytes(self._states()))


def tensor_bytes(found: Any) -> int:
    """Bytes of all tensors in nested containers and plain objects; modules are not entered.

    A view counts its whole storage: that is what it keeps alive.
    """
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (*PLAIN, nn.Module)) or callable(value) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (Sequence, Set)):
            waiting += value
        else:
            waiting += vars(value).values() if hasattr(value, "__dict__") else ()
    return sum(storages.values())
