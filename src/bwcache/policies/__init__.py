"""When to compute and when to reuse. One paper, one file."""

from bwcache.policies.adaptive import Adaptive
from bwcache.policies.base import Observation, Policy, Readings
from bwcache.policies.bwcache import BWCache
from bwcache.policies.compute import Compute
from bwcache.policies.easycache import EasyCache
from bwcache.policies.first_block import FirstBlock
from bwcache.policies.fixed_interval import FixedInterval
from bwcache.policies.foresight import Foresight
from bwcache.policies.known import known, named, policy
from bwcache.policies.presets import preset
from bwcache.policies.pyramid import PyramidAttentionBroadcast
from bwcache.policies.scheduled import Scheduled

__all__ = [
    "Adaptive",
    "BWCache",
    "Compute",
    "EasyCache",
    "FirstBlock",
    "FixedInterval",
    "Foresight",
    "Observation",
    "Policy",
    "PyramidAttentionBroadcast",
    "Readings",
    "Scheduled",
    "known",
    "named",
    "policy",
    "preset",
]
