"""The Triton kernel of `exchange`: both sums and the copy in one pass. Imported where there is CUDA, and only then."""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from bwcache.features.exchange import Sums, by_pieces

BLOCK = 4096
"""Entries that one program reads at once. These three numbers were the fastest of 40 choices on an H100."""

PROGRAMS = 4224
"""Programs at most; each adds up its part of the entries in float32, and the parts are added at the end."""

WARPS = 8
"""Warps of each program."""

AXES = 5
"""Axes that the kernel walks along at most, once those that lie together in memory are joined."""


@triton.jit
def _exchange(
    kept, new, sums, count,
    size1, size2, size3, size4,
    kept0, kept1, kept2, kept3, kept4,
    new0, new1, new2, new3, new4,
    axes: tl.constexpr, wide: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    part, parts = tl.program_id(0), tl.num_programs(0)
    if wide:
        part, parts = part.to(tl.int64), parts.to(tl.int64)
    changed = tl.zeros((block,), tl.float32)
    before = tl.zeros((block,), tl.float32)
    for first in range(part * block, count, parts * block):
        place = first + tl.arange(0, block)
        inside = place < count
        left = place
        at_kept = tl.zeros_like(place)
        at_new = tl.zeros_like(place)
        if axes > 4:
            at_kept += left % size4 * kept4
            at_new += left % size4 * new4
            left = left // size4
        if axes > 3:
            at_kept += left % size3 * kept3
            at_new += left % size3 * new3
            left = left // size3
        if axes > 2:
            at_kept += left % size2 * kept2
            at_new += left % size2 * new2
            left = left // size2
        if axes > 1:
            at_kept += left % size1 * kept1
            at_new += left % size1 * new1
            left = left // size1
        at_kept += left * kept0
        at_new += left * new0
        old = tl.load(kept + at_kept, mask=inside, other=0.0)
        now = tl.load(new + at_new, mask=inside, other=0.0)
        changed += tl.abs(now.to(tl.float32) - old.to(tl.float32))
        before += tl.abs(old.to(tl.float32))
        tl.store(kept + at_kept, now, mask=inside)
    part, parts = tl.program_id(0), tl.num_programs(0)
    tl.store(sums + part, tl.sum(changed, 0))
    tl.store(sums + parts + part, tl.sum(before, 0))


def exchange(kept: Tensor, new: Tensor) -> Sums:
    """As `exchange.exchange`. Nothing waits for the device."""
    axes = joined_axes(kept, new)
    if len(axes) > AXES:
        return by_pieces(kept, new)
    count = new.numel()
    parts = max(1, min(triton.cdiv(count, BLOCK), PROGRAMS))
    sums = torch.empty(2, parts, dtype=torch.float32, device=new.device)
    sizes, kept_strides, new_strides = zip(*axes, *[(1, 0, 0)] * (AXES - len(axes)), strict=True)
    with torch.cuda.device(new.device) if new.is_cuda else contextlib.nullcontext():
        _exchange[(parts,)](
            kept, new, sums, count, *sizes[1:], *kept_strides, *new_strides,
            axes=len(axes), wide=_reach(axes) >= 1 << 30, block=BLOCK,
            num_warps=WARPS,
        )  # fmt: skip
    changed, before = sums.sum(1)
    return changed, before


def joined_axes(kept: Tensor, new: Tensor) -> list[tuple[int, int, int]]:
    """`(size, kept's stride, new's stride)` from the outermost axis inwards, joined where both go on in one stride."""
    axes = [axis for axis in zip(new.shape, kept.stride(), new.stride(), strict=True) if axis[0] != 1]
    joined: list[tuple[int, int, int]] = []
    for size, a, b in sorted(axes, key=lambda axis: axis[1], reverse=True):
        if joined and joined[-1][1:] == (a * size, b * size):
            size *= joined.pop()[0]
        joined.append((size, a, b))
    return joined or [(1, 1, 1)]


def _reach(axes: list[tuple[int, int, int]]) -> int:
    """How far from the first entry the last one is, in entries: beyond 32 bits indices are of 64."""
    return max(sum((axis[0] - 1) * axis[tensor] for axis in axes) for tensor in (1, 2))
