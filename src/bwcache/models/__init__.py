"""What is known of each denoiser: where its blocks are and what flows through them. Knows classes by name only."""

from bwcache.models.resolution import denoisers, resolve
from bwcache.models.spec import BlockList, BlockSpec, Idle, Part
from bwcache.models.stack import Block, BlockStack, Place, Site, Tap
from bwcache.models.streams import uncompiled
from bwcache.models.table import row, supported

__all__ = [
    "Block",
    "BlockList",
    "BlockSpec",
    "BlockStack",
    "Idle",
    "Part",
    "Place",
    "Site",
    "Tap",
    "denoisers",
    "resolve",
    "row",
    "supported",
    "uncompiled",
]
