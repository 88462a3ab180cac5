"""Which entries of a block's output a tap keeps."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

DEFAULT_BUDGET = 0.2
"""Where no share is asked for: the samples of all taps together may weigh this many hidden states."""

FEWEST_ENTRIES = 128
"""Below this many entries per sample and tap a mean of absolute values is too noisy to decide by."""

GOLDEN = (5**0.5 - 1) / 2


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


def sample(feature: Tensor, count: int) -> Tensor:
    """`count` entries of each sample, `[B, …, C]` -> `[B, count]`, spread evenly from the first token to the last."""
    flat = feature.detach().flatten(1)
    entries = flat.shape[1]
    return flat if count >= entries else flat.index_select(1, _places(entries, count, flat.device))


@lru_cache(maxsize=64)
def _places(entries: int, count: int, device: torch.device) -> Tensor:
    """One place in each of `count` equal parts, shifted by the golden ratio so that all channels are visited."""
    part = torch.arange(count)
    shift = (part * GOLDEN % 1) * (entries // count)
    return (part * entries // count + shift.long()).to(device)
