"""When to compute and when to reuse. One paper, one file."""

from bwcache.policies.base import Measured, Observation, Policy
from bwcache.policies.bwcache import BWCache
from bwcache.policies.compute import Compute
from bwcache.policies.fixed_interval import FixedInterval
from bwcache.policies.known import known, named
from bwcache.policies.presets import preset

__all__ = ["BWCache", "Compute", "FixedInterval", "Measured", "Observation", "Policy", "known", "named", "preset"]
