"""Pyramid Attention Broadcast (arXiv 2408.12588), as in diffusers: outputs of attention are replayed, cross longest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from bwcache.models import BlockStack
from bwcache.study.peers.hooked import HookedPeer, by_branch, found_in_diffusers
from bwcache.study.peers.peer import remaining


@dataclass(frozen=True)
class PyramidAttentionBroadcast(HookedPeer):
    """diffusers' `PyramidAttentionBroadcastConfig`.

    Its windows are ranges of timesteps. Here the steps that remain stand in for the timestep, so that its guards are
    exact numbers of steps. Its hooks know no guidance branches: each branch gets a state of its own.

    Args:
        every: self-attention is computed every so many steps.
        cross: cross-attention is computed every so many steps.
    """

    method: ClassVar[str] = "PAB"
    shown: ClassVar[tuple[str, ...]] = ("every", "cross")

    every: int = 2
    cross: int = 6

    def config(self, pipe: Any, stack: BlockStack) -> Any:
        """The same window for all kinds of attention."""
        window = (self.guards.tail, self.steps - self.guards.warmup + 1)
        return found_in_diffusers("PyramidAttentionBroadcastConfig")(
            spatial_attention_block_skip_range=self.every,
            temporal_attention_block_skip_range=self.every,
            cross_attention_block_skip_range=self.cross,
            spatial_attention_timestep_skip_range=window,
            temporal_attention_timestep_skip_range=window,
            cross_attention_timestep_skip_range=window,
            current_timestep_callback=lambda: remaining(pipe)[0],
        )

    def prepare(self, pipe: Any, hooks: Sequence[Any], modules: Sequence[nn.Module], undo: ExitStack) -> None:
        """A state per branch."""
        from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastState

        for hook in hooks:
            by_branch(hook, PyramidAttentionBroadcastState)

    def remarks(self, pipe: Any) -> tuple[str, ...]:
        """What was changed about it."""
        return ("skips attention only", "a state per guidance branch, which diffusers' hook does not have")
