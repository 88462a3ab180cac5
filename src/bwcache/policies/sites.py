"""Sites that several methods have in common."""

from __future__ import annotations

from bwcache.errors import AttachError, complaint
from bwcache.models import BlockStack, Place, Site


def added_by_all(stack: BlockStack, seen: Place | None = None) -> Site:
    """Return all blocks as one site, by what they add to their input.

    Where the first block makes what is `seen` before deciding, it runs in every step, and what is added still counts
    from its input on. Where blocks work on places and on frames in turn (Latte, Open-Sora), what leaves the last one
    may lie otherwise than what enters the first: there the first one runs in every step too, and what the others add
    counts.

    Args:
        seen: a place at which the policy looks before it decides.

    Raises:
        AttachError: the first block must run in every step, and there is no other.
    """
    first, last = stack.blocks[0], stack.blocks[-1]
    inside = seen is not None and any(seen.module is module for module in first.module.modules())
    apart = stack.spec.interleaved and stack.lists[0] is not stack.lists[-1]
    if not inside and not apart:
        return stack.whole(keeps="residual")
    if len(stack.blocks) < 2:
        raise AttachError(
            complaint(
                f"one block in {stack.spec.model}, which must run in every step",
                "at least two",
                "choose another policy",
            )
        )
    return stack.site(stack.blocks[1], last, keeps="residual", since=None if apart else first)
