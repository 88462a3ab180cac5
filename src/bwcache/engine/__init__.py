"""The only code that touches live modules: attach, drive, detach."""

from bwcache.engine.attach import attach, disable, enable
from bwcache.engine.discovery import discover
from bwcache.engine.ranks import Ranks
from bwcache.engine.session import Session

__all__ = ["Ranks", "Session", "attach", "disable", "discover", "enable"]
