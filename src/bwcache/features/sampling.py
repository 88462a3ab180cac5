"""Which entries of a block's output a tap keeps."""

from __future__ import annotations

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


def places(entries: int, count: int, device: torch.device) -> Tensor:
    """Which of a flattened feature's entries are kept, `[count]`: one in each of `count` equal parts.

    They reach from the first token to the last; the golden ratio shifts them within their parts, so that all channels
    are visited: neighbouring channels of one token say nearly the same, far tokens do not.
    """
    part = torch.arange(count, device=device)
    shift = (part.float() * GOLDEN % 1) * (entries // count)
    return part * entries // count + shift.long()


def sample(feature: Tensor, where: Tensor) -> Tensor:
    """The entries of each sample at these places, `[B, …, C]` -> `[B, count]`."""
    return feature.detach().flatten(1).index_select(1, where)
