"""When to compute and when to reuse. One paper, one file."""

from typing import TYPE_CHECKING, Any

from bwcache.former_names import exported
from bwcache.policies.adacache import AdaCache
from bwcache.policies.adaptive import Adaptive
from bwcache.policies.base import Observation, Policy, Readings
from bwcache.policies.block_caching import BlockCaching
from bwcache.policies.blockwise_adaptive import BlockwiseAdaptiveCache
from bwcache.policies.bwcache import BWCache
from bwcache.policies.dbcache import DBCache
from bwcache.policies.dbprune import DBPrune
from bwcache.policies.deepcache import DeepCache
from bwcache.policies.dicache import DiCache
from bwcache.policies.easycache import EasyCache
from bwcache.policies.fastercache import FasterCache
from bwcache.policies.first_block import FirstBlock
from bwcache.policies.fixed_interval import FixedInterval
from bwcache.policies.flash_block import FlashBlock
from bwcache.policies.flowcache import FlowCache
from bwcache.policies.foresight import Foresight
from bwcache.policies.guarded import Guarded
from bwcache.policies.hicache import HiCache
from bwcache.policies.hierarchical_latent import HierarchicalLatentCache
from bwcache.policies.known import known, named, policy
from bwcache.policies.magcache import MagCache
from bwcache.policies.meancache import MeanCache
from bwcache.policies.mixcache import MixCache
from bwcache.policies.never_reuse import NeverReuse
from bwcache.policies.per_denoiser import PerDenoiser
from bwcache.policies.planned import Planned
from bwcache.policies.presets import preset
from bwcache.policies.pyramid import PyramidAttentionBroadcast
from bwcache.policies.seacache import SeaCache
from bwcache.policies.sencache import SenCache
from bwcache.policies.skip_dit import SkipDiT
from bwcache.policies.smooth_cache import SmoothCache
from bwcache.policies.sortblock import Sortblock
from bwcache.policies.speca import SpeCa
from bwcache.policies.spectrum import Spectrum
from bwcache.policies.step_list import StepList
from bwcache.policies.taylorseer import TaylorSeer
from bwcache.policies.teacache import TeaCache
from bwcache.policies.tuned import Tuned

__all__ = [
    "AdaCache",
    "Adaptive",
    "BWCache",
    "BlockCaching",
    "BlockwiseAdaptiveCache",
    "DBCache",
    "DBPrune",
    "DeepCache",
    "DiCache",
    "EasyCache",
    "FasterCache",
    "FirstBlock",
    "FixedInterval",
    "FlashBlock",
    "FlowCache",
    "Foresight",
    "Guarded",
    "HiCache",
    "HierarchicalLatentCache",
    "MagCache",
    "MeanCache",
    "MixCache",
    "NeverReuse",
    "Observation",
    "PerDenoiser",
    "Planned",
    "Policy",
    "PyramidAttentionBroadcast",
    "Readings",
    "SeaCache",
    "SenCache",
    "SkipDiT",
    "SmoothCache",
    "Sortblock",
    "SpeCa",
    "Spectrum",
    "StepList",
    "TaylorSeer",
    "TeaCache",
    "Tuned",
    "known",
    "named",
    "policy",
    "preset",
]

if not TYPE_CHECKING:  # which is to miss no misspelled name

    def __getattr__(name: str) -> Any:
        return exported(__name__, name)
