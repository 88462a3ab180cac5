"""Which entries of a block's output a tap keeps."""

from __future__ import annotations

import torch
from torch import Tensor

DEFAULT_BUDGET = 0.2
"""Where no share is asked for: the samples of all taps together may weigh this many hidden states."""

FEWEST_ENTRIES = 128
"""Below this many entries per sample and tap a mean of absolute values is too noisy to decide by."""

GOLDEN, STAGGER = (5**0.5 - 1) / 2, 2**0.5


def entries_to_keep(entries: int, taps: int, share: float | None) -> int:
    """How many of a feature's entries each tap keeps.

    Args:
        entries: N * C, the size of one sample's feature.
        taps: number of tapped blocks, among which `DEFAULT_BUDGET` is divided where no share is given.
        share: 0..1, the share of entries to keep, or None for the budget.
    """
    if share is None:
        share = DEFAULT_BUDGET / max(taps, 1)
    return min(entries, max(round(entries * share), FEWEST_ENTRIES))


def places(entries: int, count: int, device: torch.device) -> Tensor:
    """Which of a flattened feature's entries are kept, `[count]`: one in each of `count` equal parts.

    They reach from the first token to the last, and leave room at the end for `offset`. The golden ratio shifts them
    within their parts, so that all channels are visited.
    """
    room = entries - entries // count + 1
    part = torch.arange(count, device=device)
    return part * room // count + (part.float() * GOLDEN % 1 * (room // count)).long()


def offset(tap: int, entries: int, count: int) -> int:
    """By how much a tap's places are moved, less than one part.

    A few channels are far larger than the others; taps that all looked at the same ones would all err alike.
    """
    return int(tap * STAGGER % 1 * (entries // count))


def sample(feature: Tensor, where: Tensor, moved: int = 0) -> Tensor:
    """The entries of each sample at these places, `[B, …, C]` -> `[B, count]`."""
    return feature.detach().flatten(1)[:, moved:].index_select(1, where)
