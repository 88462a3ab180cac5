"""Whether ranks that decide together were given the same: checksums, of which only sums are exchanged.

Of N ranks, N times the sum of a number's squares is the square of its sum only if all have the same. The numbers are
whole and below 256, so that the sums of 256 ranks are exact in float32.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from bwcache.engine.clock.call import Call
from bwcache.features.shards import own_part

SETTINGS = "policies, numbers of steps or versions of bwcache"

KINDS = (SETTINGS, "prompts", "latents")
"""What is compared."""

_PIECES = 3
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

SIZE = 2 * _PIECES * len(KINDS)
"""How many numbers the checksums of one forward are."""


@cache
def version() -> str:
    """Return the version of bwcache that is installed; empty where it is not."""
    try:
        return metadata.version("bwcache")
    except metadata.PackageNotFoundError:
        return ""


def checksums(setting: str, call: Call) -> Tensor:
    """Return the checksums of a forward as they are exchanged, `[SIZE]` float32, on the device of its latents."""
    latents, prompts = call.latents, call.condition.values
    device = torch.device("cpu") if latents is None else latents.device
    said = torch.tensor(zlib.crc32(setting.encode()), dtype=torch.int64, device=device)
    return torch.cat([_pieces(number) for number in (said, _sum(prompts, device), _sum([latents], device))])


def _sum(values: Sequence[Any], device: torch.device) -> Tensor:
    """One number that tells tensors apart, by their bits."""
    total = torch.zeros((), dtype=torch.int64, device=device)
    for value in values:
        if isinstance(value, Tensor) and not value.is_meta:
            own = own_part(value.detach()).contiguous()
            own = torch.view_as_real(own) if own.is_complex() else own
            bits = own.to(torch.int8) if own.dtype is torch.bool else own.view(_SIGNED[own.element_size()])
            total = total * 31 + bits.sum(dtype=torch.int64).to(device)
    return total


def _pieces(number: Tensor) -> Tensor:
    some = torch.stack([(number >> (8 * i)) & 255 for i in range(_PIECES)]).to(torch.float32)
    return torch.cat((some, some.square()))


def differing(sums: Sequence[float], ranks: int) -> list[str]:
    """Return which kinds are not the same on all ranks, by the sums of their checksums."""
    found = []
    for i, kind in enumerate(KINDS):
        values = sums[2 * _PIECES * i : 2 * _PIECES * (i + 1)]
        pairs = zip(values[:_PIECES], values[_PIECES:], strict=True)
        if any(ranks * squares != total * total for total, squares in pairs):
            found.append(kind)
    return found
