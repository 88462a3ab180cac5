"""Which run, step and branch a forward belongs to: signals in order of trust, and the clock that asks them."""

from bwcache.engine.clock.call import Call
from bwcache.engine.clock.caller import Caller
from bwcache.engine.clock.clock import Clock
from bwcache.engine.clock.host import Context, HostStep
from bwcache.engine.clock.schedule import Loop, Schedule

__all__ = ["Call", "Caller", "Clock", "Context", "HostStep", "Loop", "Schedule"]
