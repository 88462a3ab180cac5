"""What is known of each denoiser: where its blocks are and what flows through them. Knows classes by name only."""

from bwcache.models.spec import BlockList, BlockSpec
from bwcache.models.stack import Block, BlockStack, Site, Tap, denoisers, resolve, uncompiled
from bwcache.models.table import supported

__all__ = [
    "Block",
    "BlockList",
    "BlockSpec",
    "BlockStack",
    "Site",
    "Tap",
    "denoisers",
    "resolve",
    "supported",
    "uncompiled",
]
