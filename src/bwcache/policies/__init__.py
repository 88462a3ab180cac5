"""When to compute and when to reuse. One paper, one file."""

from bwcache.policies.adaptive import Adaptive
from bwcache.policies.base import Observation, Policy, Readings
from bwcache.policies.bwcache import BWCache
from bwcache.policies.compute import Compute
from bwcache.policies.fixed_interval import FixedInterval
from bwcache.policies.known import known, named, policy
from bwcache.policies.presets import preset
from bwcache.policies.scheduled import Scheduled

__all__ = [
    "Adaptive",
    "BWCache",
    "Compute",
    "FixedInterval",
    "Observation",
    "Policy",
    "Readings",
    "Scheduled",
    "known",
    "named",
    "policy",
    "preset",
]
