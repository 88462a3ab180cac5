"""SeaCache (arXiv 2602.18993), as in diffusers: changes of the latents, weighed by frequency, use up a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bwcache.models import BlockStack
from bwcache.study.peers.hooked import HookedPeer, found_in_diffusers


@dataclass(frozen=True)
class SeaCache(HookedPeer):
    """diffusers' `SeaCacheConfig`, which continues the residual linearly.

    It needs the step, the number of steps and sigma from the pipeline. Where they are not said it computes everything,
    and says so in a warning, which becomes a note.

    Args:
        threshold: budget of relative change, dimensionless.
        skipped: steps in a row that may be skipped.
    """

    method: ClassVar[str] = "SeaCache"
    shown: ClassVar[tuple[str, ...]] = ("threshold", "skipped")

    threshold: float = 0.25
    skipped: int = 2

    def config(self, pipe: Any, stack: BlockStack) -> Any:
        """Its guards are numbers of steps."""
        return found_in_diffusers("SeaCacheConfig")(
            threshold=self.threshold,
            max_consecutive_cached=self.skipped,
            retention_steps=self.guards.warmup,
            cache_end_steps=self.guards.tail,
        )
