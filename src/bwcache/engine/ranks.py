"""One decision on all ranks that work on one video."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


def agree(measured: Tensor, group: Any) -> Tensor:
    """Adds what every rank of a process group measured on its part of the tokens; in place, the same on all.

    Numerators and denominators are added before anybody divides, so the ranks decide by the indicator of the whole
    video. The group is passed in: ranks that make different videos must not wait for each other.

    Args:
        measured: `[2, T]` float32, or one number.
        group: a `torch.distributed` process group, or None for a single process.
    """
    if group is not None:
        dist.all_reduce(measured, op=dist.ReduceOp.SUM, group=group)
    return measured
