"""What is known of each denoiser: where its blocks are and what flows through them. Knows classes by name only."""

from typing import TYPE_CHECKING, Any

from bwcache.former_names import exported
from bwcache.models.resolution import denoisers, resolve
from bwcache.models.spec import BlockList, BlockSpec, Idle, Part
from bwcache.models.stack import BlockStack, Keeps, Place, Site, Tap
from bwcache.models.streams import uncompiled
from bwcache.models.table import row, supported

__all__ = [
    "BlockList",
    "BlockSpec",
    "BlockStack",
    "Idle",
    "Keeps",
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

if not TYPE_CHECKING:  # which is to miss no misspelled name

    def __getattr__(name: str) -> Any:
        return exported(__name__, name)
