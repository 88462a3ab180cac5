"""First-Block Cache (ParaAttention), as in diffusers: the first block always runs, and its change decides."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from bwcache.models import BlockStack
from bwcache.study.peers.hooked import HookedPeer, found_in_diffusers


@dataclass(frozen=True)
class FirstBlockCache(HookedPeer):
    """diffusers' `FirstBlockCacheConfig`.

    Args:
        threshold: relative L1 change of the first block's residual, dimensionless.
    """

    method: ClassVar[str] = "First-Block Cache"
    shown: ClassVar[tuple[str, ...]] = ("threshold",)

    threshold: float = 0.05

    def config(self, pipe: Any, stack: BlockStack) -> Any:
        """Its one setting."""
        return found_in_diffusers("FirstBlockCacheConfig")(threshold=self.threshold)

    def prepare(self, pipe: Any, hooks: Sequence[Any], modules: Sequence[nn.Module], undo: ExitStack) -> None:
        """Guards, which it does not have."""
        leaders = [hook for hook in hooks if hasattr(hook, "threshold")]
        self.guard_by_threshold(pipe, leaders, self.threshold, modules, undo)

    def remarks(self, pipe: Any) -> tuple[str, ...]:
        """Where its guards come from."""
        return ("warm-up and tail laid around it: it has none of its own",)
