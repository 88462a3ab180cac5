"""DeepCache: Accelerating Diffusion Models for Free.

Ma, Fang, Wang; arXiv 2312.00858, CVPR 2024. Training-free, for U-Nets. Symbols of the paper: N the interval, D and U
the down and up blocks, each of several layers, with a skip from each layer of D to one of U.

1. High-level features, deep in the U, change little from step to step; the skips bring the details that do.
2. In every N-th step all is computed.
3. In the steps between only a shallow branch runs: the layers of D above a chosen skip, and those of U from that skip
   on. What reaches them from below is what it was at the last computed step.

Branches are counted as in the authors' package: branch b lies in the down block b // 3 of the U, at its layer b % 3.
Branch 0 is the shallowest: in a skipped step nothing runs but the first convolution and the last layer of U.

What is kept is the output of each layer that does not run in the block of the branch, and one output of all that is
deeper. Motion and time layers of video U-Nets count with the layer that they follow.

Deviation: the paper's non-uniform spacing, which computes more often in the middle of a run, is not offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.errors import AttachError, complaint
from bwcache.models import BlockStack, Place, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, whole
from bwcache.policies.entry import Entry, Paper

LAYERS = 3
"""So many branches are counted for each block of the U."""


@dataclass(frozen=True)
class DeepCache(Policy[None]):
    """Computes every `interval`-th step in full; between, only a shallow branch of the U runs.

    Args:
        interval: N, steps from one full step to the next, >= 1; 1 never reuses.
        branch: b, >= 0: the larger, the more runs in a skipped step.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1, and 1 for each skipped layer of the branch's own block",
        reads="nothing",
        verified="the authors' package, bit for bit",
        paper=Paper(
            title="DeepCache: Accelerating Diffusion Models for Free",
            authors="Ma, Fang, Wang",
            arxiv="2312.00858",
            venue="CVPR 2024",
        ),
    )

    interval: int = 3  # N
    branch: int = 0

    def __post_init__(self) -> None:
        expect(whole(self.interval, 1), "interval", self.interval, "a whole number of steps >= 1", "3")
        expect(whole(self.branch, 0), "branch", self.branch, "a whole number >= 0", "0")

    @property
    def may_reuse(self) -> bool:
        """Not with an interval of 1."""
        return self.interval > 1

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The layers below the branch in its own two blocks, each by itself, and all deeper blocks as one.

        Raises:
            AttachError: this is no U-Net, it has no such branch, or its row names no parts where the branch needs them.
        """
        lists = [part.path for part in stack.lists]
        depth, layer = divmod(self.branch, LAYERS)
        levels = lists.count("down_blocks")
        if levels == 0 or levels != lists.count("up_blocks"):
            found, action = f"{stack.spec.model}, which is no U-Net", "choose another policy"
            raise AttachError(complaint(found, "one with down_blocks and as many up_blocks", action))
        if depth >= levels:
            found = f"branch {self.branch} of {stack.spec.model}"
            raise AttachError(complaint(found, f"0 to {LAYERS * levels - 1}", "choose a lower one"))
        down, up = stack.blocks[depth], stack.blocks[len(stack.blocks) - 1 - depth]
        deeper = stack.blocks[depth + 1 : len(stack.blocks) - 1 - depth]
        own = [part for part in stack.parts() if part.block == down.block and _layer(part) >= layer]
        rising = [part for part in stack.parts() if part.block == up.block]
        last = max(map(_layer, rising), default=0)
        below = [part for part in rising if last - _layer(part) > layer]
        if not stack.parts() and layer < LAYERS - 1:
            found = f"branch {self.branch} of {stack.spec.model}, whose row names no layers of its blocks"
            raise AttachError(complaint(found, "one between blocks", f"take branch {LAYERS * depth + LAYERS - 1}"))
        found_sites = (*map(stack.site, own), *_run(stack, deeper), *map(stack.site, below))
        if not found_sites:
            found = f"branch {self.branch} of {stack.spec.model}, below which nothing lies"
            raise AttachError(complaint(found, "a shallower one", "choose a lower one"))
        return found_sites

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """The index against the interval."""
        age = observation.step.index % self.interval
        if age == 0:
            return compute(f"interval over (after {self.interval - 1} reused steps)")
        return reuse(f"within the interval (step {age} after a computed one)")


def _run(stack: BlockStack, blocks: tuple[Place, ...]) -> Iterator[Site]:
    if blocks:
        yield stack.site(blocks[0], blocks[-1])


def _layer(part: Place) -> int:
    """Which layer of its block a part is of, from 0."""
    return next((int(name) for name in reversed(part.name.split(".")) if name.isdigit()), 0)
