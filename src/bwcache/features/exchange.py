"""A kept feature compared with a new one and overwritten by it, in one pass over the data.

On CUDA a Triton kernel does that (`kernel.py`), where Triton is installed, as it is with torch's own builds for Linux.
Elsewhere torch does it piece by piece: a piece is still in the processor's cache when the next operation reads it, and
nothing of a feature's size is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from bwcache.errors import warn

PIECE = {"cpu": 1 << 20}
"""Entries that are compared at once, by type of device."""

LARGE_PIECE = 1 << 24
"""On all other devices, where each operation costs a launch."""


Sums = tuple[Tensor, Tensor]
"""||new - kept||_1 and ||kept||_1, float32 (eq. 5 of arXiv 2509.13789)."""


def exchange(kept: Tensor, new: Tensor) -> Sums:
    """Compares, and then copies `new` into `kept`.

    Args:
        kept: the feature of the last computed step; overwritten.
        new: that of this one: the same shape, dtype and device, any strides. Must not share memory with `kept`.

    Returns:
        Both sums, on the device; accumulated in float32 whatever the dtype.
    """
    if new.is_cuda:
        fused = _fused(new.device)
        if fused is not None:
            return fused(kept, new)
    return by_pieces(kept, new)


def by_pieces(kept: Tensor, new: Tensor) -> Sums:
    """As `exchange`, by torch's own operations on any device."""
    entries = PIECE.get(new.device.type, LARGE_PIECE)
    if new.numel() <= entries:
        return _exchange_piece(kept, new)
    sums = [_exchange_piece(*piece) for piece in _pieces(kept, new, entries)]
    changed, before = zip(*sums, strict=True)
    return torch.stack(changed).sum(), torch.stack(before).sum()


def _exchange_piece(kept: Tensor, new: Tensor) -> Sums:
    old = kept.float()  # of a float32 no copy: the difference takes its place until it is overwritten
    before = old.abs().sum()
    changed = old.sub_(new).abs_().sum()
    kept.copy_(new)
    return changed, before


def _pieces(kept: Tensor, new: Tensor, entries: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of both, of about so many entries: along memory where both lie alike, else along the longest axis."""
    if kept.stride() == new.stride() and _fills_its_memory(kept):
        kept, new = (t.as_strided((t.numel(),), (1,), t.storage_offset()) for t in (kept, new))
    axis = max(range(kept.ndim), key=kept.size)
    length = max(1, entries * kept.size(axis) // kept.numel())
    yield from zip(kept.split(length, axis), new.split(length, axis), strict=True)


def _fills_its_memory(tensor: Tensor) -> bool:
    """Whether its entries are, in some order, all those of a stretch of memory, each once."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


@cache
def _fused(device: torch.device) -> Callable[[Tensor, Tensor], Sums] | None:
    """The kernel, tried once on a device; None where Triton is missing or cannot compile (it needs a C compiler)."""
    try:
        from bwcache.features.kernel import exchange as fused
    except ImportError:
        return None
    try:
        fused(torch.zeros(2, device=device), torch.ones(2, device=device))
    except Exception as error:
        warn(
            f"found Triton, which cannot compile for {device} ({error}); expected it to; the exact indicator is "
            "measured by torch's own operations, which is slower: install a C compiler",
            RuntimeWarning,
        )
        return None
    return fused
