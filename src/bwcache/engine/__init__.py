"""The only code that touches live modules: attach, drive, detach."""

from bwcache.engine.discovery import discover
from bwcache.engine.session import Session, attach, disable, enable

__all__ = ["Session", "attach", "disable", "discover", "enable"]
