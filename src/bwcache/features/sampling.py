"""Which entries of a block's output a tap keeps."""

from __future__ import annotations

import math

from torch import Tensor

DEFAULT_BUDGET = 0.2
"""Where no share is asked for: the samples of all taps together may weigh this many hidden states."""

FEWEST_ENTRIES = 128
"""Below this many entries per sample and tap a mean of absolute values is too noisy to decide by."""


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
    """`count` entries of each sample, `[B, …, C]` -> `[B, count]`; a view where the feature is contiguous.

    They are spread evenly over the tokens and walk through all channels, because the stride is made coprime with the
    number of channels: neighbouring channels of one token say nearly the same, far tokens do not.
    """
    flat = feature.detach().flatten(1)
    stride = max(1, flat.shape[1] // count)
    while stride > 1 and math.gcd(stride, feature.shape[-1]) > 1:
        stride -= 1
    return flat[:, : count * stride : stride]
