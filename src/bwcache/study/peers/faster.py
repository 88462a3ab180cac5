"""FasterCache (arXiv 2410.19355), as in diffusers: self-attention continued, the unconditional branch approximated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import nn

from bwcache.models import BlockStack
from bwcache.study.peers.hooked import HookedPeer, by_branch, found_in_diffusers
from bwcache.study.peers.peer import remaining

UNCONDITIONAL_EVERY = 5
FRAMES_FIRST = ("CogVideoX",)
"""Denoisers whose latents have the frames before the channels, by the beginning of their names."""


@dataclass(frozen=True)
class FasterCache(HookedPeer):
    """diffusers' `FasterCacheConfig`.

    The unconditional branch can only be approximated where both branches share a forward. Elsewhere, as in Wan, its
    part for attention remains, and each branch gets a state of its own. Guards as in `PyramidAttentionBroadcast`; the
    first step of each denoiser is always computed, because its hooks cannot begin otherwise.

    Args:
        every: self-attention is computed every so many steps.
    """

    method: ClassVar[str] = "FasterCache"
    shown: ClassVar[tuple[str, ...]] = ("every",)

    every: int = 2

    def config(self, pipe: Any, stack: BlockStack) -> Any:
        """The weight of the last change is diffusers' default, 1/2."""
        window = (self.guards.tail, self.steps - max(1, self.guards.warmup) + 1)
        return found_in_diffusers("FasterCacheConfig")(
            spatial_attention_block_skip_range=self.every,
            temporal_attention_block_skip_range=self.every,
            spatial_attention_timestep_skip_range=window,
            temporal_attention_timestep_skip_range=window,
            unconditional_batch_skip_range=UNCONDITIONAL_EVERY,
            unconditional_batch_timestep_skip_range=window,
            low_frequency_weight_update_timestep_range=(self.steps * 0.1, self.steps * 0.9),
            high_frequency_weight_update_timestep_range=(-1, self.steps * 0.3),
            attention_weight_callback=lambda _: 0.5,
            tensor_format="BFCHW" if type(stack.module).__name__.startswith(FRAMES_FIRST) else "BCFHW",
            is_guidance_distilled=not _batched(stack),
            current_timestep_callback=lambda: remaining(pipe)[0],
        )

    def prepare(self, pipe: Any, hooks: Sequence[Any], modules: Sequence[nn.Module], undo: ExitStack) -> None:
        """A state per branch, and no step that counts as one to skip while it is empty."""
        from diffusers.hooks.faster_cache import FasterCacheBlockHook, FasterCacheBlockState

        for hook in hooks:
            if isinstance(hook, FasterCacheBlockHook):
                by_branch(hook, FasterCacheBlockState)
                hook.current_timestep_callback = partial(self._within_reach, pipe, hook)

    def _within_reach(self, pipe: Any, hook: Any) -> int:
        """Steps that remain; before the window of its guards as long as the hook has nothing to continue."""
        return self.steps + 1 if hook.state.cache is None else remaining(pipe)[0]

    def remarks(self, pipe: Any) -> tuple[str, ...]:
        """Which parts of the method could work."""
        return ("skips self-attention only; the unconditional branch where both share a forward",)


def _batched(stack: BlockStack) -> bool:
    return stack.spec.guidance == "batched"
