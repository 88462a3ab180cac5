"""Where a policy acts on one stack: made once, when it is attached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bwcache.errors import AttachError, complaint
from bwcache.models import Block, BlockStack, Site
from bwcache.policies import Policy


@dataclass(frozen=True, eq=False)
class Place:
    """What there is to do at one block: the site it belongs to, the ordinal of its tap and which value that reads."""

    block: Block
    site: Site | None
    leaves: bool
    tap: int | None
    tapped: int

    @property
    def is_marked(self) -> bool:
        """Whether the block which is here begins or ends a site or is tapped."""
        return self.tap is not None or (self.site is not None and self.block in (self.site.first, self.site.last))


@dataclass(frozen=True, eq=False)
class Plan:
    """Where a policy acts on one stack: made once, when it is attached.

    Attributes:
        places: one for each block, in call order.
        taps: how many blocks are tapped.
        leaving: the last block of each site.
        alone: the site, where it is the only one, has all blocks and keeps their output: nothing else has a say in what
            a forward of it returns.
        keeps: whether the policy can reuse, so that features are kept for it.
        watched: the blocks at whose calls there is anything to do, in call order.
    """

    stack: BlockStack
    places: tuple[Place, ...]
    taps: int
    leaving: frozenset[int]
    alone: Site | None
    keeps: bool
    watched: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether anything is held between steps: features, or what taps compare."""
        return self.keeps or self.taps > 0

    @classmethod
    def of(cls, policy: Policy[Any], stack: BlockStack, timing: bool = False) -> Plan:
        """The plan of a policy for a stack.

        Args:
            timing: whether the time inside of the blocks is taken.

        Raises:
            AttachError: a site keeps a residual of a stream that does not enter it.
        """
        sites: list[Site | None] = [None] * len(stack.blocks)
        for site in policy.sites(stack):
            _expect_residual(site, stack)
            first, last = stack.blocks.index(site.first), stack.blocks.index(site.last)
            sites[first : last + 1] = [site] * (last - first + 1)
        taps = {tap.place.block: (i, tap.stream) for i, tap in enumerate(policy.taps(stack))}
        places = []
        for i, (block, at) in enumerate(zip(stack.blocks, sites, strict=True)):
            ordinal, stream = taps.get(i, (None, block.streams[0].name))
            places.append(Place(block, at, at is not None and block is at.last, ordinal, block.position(stream)))
        leaving = frozenset(i for i, place in enumerate(places) if place.leaves)
        alone = sites[0] if len(set(sites)) == 1 and sites[0] is not None and sites[0].keeps == "output" else None
        keeps = policy.may_reuse
        by_number = any(block.hook is not None for block in stack.blocks)
        busy = keeps or timing or by_number
        watched = tuple(i for i, place in enumerate(places) if busy or place.is_marked)
        return cls(stack, tuple(places), len(taps), leaving, alone, keeps, watched)


def _expect_residual(site: Site, stack: BlockStack) -> None:
    enters = [stream.name for stream in site.first.streams]
    strange = [name for name in site.streams if name not in enters]
    if site.keeps == "residual" and strange:
        raise AttachError(
            complaint(
                f"a residual of {strange[0]!r}, which does not enter {site.first.name}",
                f"one of {', '.join(enters)}",
                'keep "output" in this site',
            )
        )
