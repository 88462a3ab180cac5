"""TaylorSeer (arXiv 2503.06923), as in diffusers: module outputs continued as a polynomial of the step index."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from bwcache.errors import AttachError, complaint
from bwcache.models import BlockStack
from bwcache.study.peers.hooked import HookedPeer, found_in_diffusers

PREDICTED = re.compile(r"attn|attention|ff|mlp")
"""Children of a block that do its work, by name; norms are left out."""


@dataclass(frozen=True)
class TaylorSeer(HookedPeer):
    """diffusers' `TaylorSeerCacheConfig`: the output of every attention and feed-forward module is continued.

    diffusers' own patterns attach to no module of Wan and of most video models. So the modules are named one by one.

    Args:
        interval: distance in steps from one computed step to the next.
        order: of the polynomial.
    """

    method: ClassVar[str] = "TaylorSeer"
    shown: ClassVar[tuple[str, ...]] = ("interval", "order")

    interval: int = 5
    order: int = 1

    def config(self, pipe: Any, stack: BlockStack) -> Any:
        """Factors in the model's own precision, where diffusers would take bfloat16."""
        weight = next(stack.module.parameters())
        return found_in_diffusers("TaylorSeerCacheConfig")(
            cache_interval=self.interval,
            max_order=self.order,
            disable_cache_before_step=self.guards.warmup,
            disable_cache_after_step=self.steps - self.guards.tail,
            taylor_factors_dtype=weight.dtype,
            **self.where(stack),
        )

    def where(self, stack: BlockStack) -> dict[str, Any]:
        """The settings that say which modules are continued.

        Raises:
            AttachError: the blocks have no parts that are called like attention or feed-forward.
        """
        names = [
            f"{block.name}.{child}"
            for block in stack.blocks
            for child, _ in block.module.named_children()
            if PREDICTED.search(child) and "norm" not in child
        ]
        if not names:
            raise AttachError(
                complaint(
                    f"blocks of {type(stack.module).__name__} without attention or feed-forward by name",
                    "children called like attn, ff or mlp",
                    "leave TaylorSeer out with --methods",
                )
            )
        return {"cache_identifiers": [re.escape(name) for name in names]}


@dataclass(frozen=True)
class TaylorSeerLite(TaylorSeer):
    """The same in its lite mode: only the model's last projection is continued, and whole blocks are skipped."""

    method: ClassVar[str] = "TaylorSeer lite"

    def where(self, stack: BlockStack) -> dict[str, Any]:
        """diffusers' own patterns.

        Raises:
            AttachError: the model has no `proj_out` to continue.
        """
        if not hasattr(stack.module, "proj_out"):
            found = f"{type(stack.module).__name__} without proj_out"
            raise AttachError(
                complaint(found, "the module that the lite mode continues", "leave it out with --methods")
            )
        return {"use_lite_mode": True}
