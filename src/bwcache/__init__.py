"""Block-wise caching for video diffusion transformers (BWCache, arXiv 2509.13789) and an engine for caching methods.

```python
import bwcache

with bwcache.attach(pipe, bwcache.BWCache(threshold=0.15)) as session:
    video = pipe(prompt, num_inference_steps=50).frames
print(session.trace.summary())
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bwcache.core import Decision, Event, Step, Summary, Trace, check, compute, reuse
    from bwcache.engine import Ranks, Session, attach, disable, discover, enable
    from bwcache.errors import (
        AlreadyAttachedError,
        AttachError,
        BlocksChangedError,
        BWCacheError,
        MissingExtraError,
        MuchKeptWarning,
        NeverReusedWarning,
        NoBlocksFoundError,
        NotProvenError,
        OtherWeightsWarning,
        OverBudgetError,
        RanksDifferError,
        RunStoppedError,
        SettingError,
        SpecMismatchError,
        TraceError,
    )
    from bwcache.features import (
        Along,
        Bounded,
        Damped,
        Last,
        Linear,
        PredictionError,
        Predictor,
        Taylor,
        View,
        Weighted,
    )
    from bwcache.models import BlockList, BlockSpec, BlockStack, Part, Place, Site, Tap
    from bwcache.policies import (
        AdaCache,
        Adaptive,
        BlockCaching,
        BlockwiseAdaptiveCache,
        BWCache,
        DBCache,
        DBPrune,
        DeepCache,
        DiCache,
        EasyCache,
        FasterCache,
        FirstBlock,
        FixedInterval,
        FlashBlock,
        FlowCache,
        Foresight,
        Guarded,
        HiCache,
        HierarchicalLatentCache,
        MagCache,
        MeanCache,
        MixCache,
        NeverReuse,
        Observation,
        PerDenoiser,
        Planned,
        Policy,
        PyramidAttentionBroadcast,
        Readings,
        SeaCache,
        SenCache,
        SkipDiT,
        SmoothCache,
        Sortblock,
        SpeCa,
        Spectrum,
        StepList,
        TaylorSeer,
        TeaCache,
        Tuned,
        policy,
        preset,
    )

__version__ = "0.1.0"

__all__ = [
    "AdaCache",
    "Adaptive",
    "Along",
    "AlreadyAttachedError",
    "AttachError",
    "BWCache",
    "BWCacheError",
    "BlockCaching",
    "BlockList",
    "BlockSpec",
    "BlockStack",
    "BlocksChangedError",
    "BlockwiseAdaptiveCache",
    "Bounded",
    "DBCache",
    "DBPrune",
    "Damped",
    "Decision",
    "DeepCache",
    "DiCache",
    "EasyCache",
    "Event",
    "FasterCache",
    "FirstBlock",
    "FixedInterval",
    "FlashBlock",
    "FlowCache",
    "Foresight",
    "Guarded",
    "HiCache",
    "HierarchicalLatentCache",
    "Last",
    "Linear",
    "MagCache",
    "MeanCache",
    "MissingExtraError",
    "MixCache",
    "MuchKeptWarning",
    "NeverReuse",
    "NeverReusedWarning",
    "NoBlocksFoundError",
    "NotProvenError",
    "Observation",
    "OtherWeightsWarning",
    "OverBudgetError",
    "Part",
    "PerDenoiser",
    "Place",
    "Planned",
    "Policy",
    "PredictionError",
    "Predictor",
    "PyramidAttentionBroadcast",
    "Ranks",
    "RanksDifferError",
    "Readings",
    "RunStoppedError",
    "SeaCache",
    "SenCache",
    "Session",
    "SettingError",
    "Site",
    "SkipDiT",
    "SmoothCache",
    "Sortblock",
    "SpeCa",
    "SpecMismatchError",
    "Spectrum",
    "Step",
    "StepList",
    "Summary",
    "Tap",
    "Taylor",
    "TaylorSeer",
    "TeaCache",
    "Trace",
    "TraceError",
    "Tuned",
    "View",
    "Weighted",
    "attach",
    "check",
    "compute",
    "disable",
    "discover",
    "enable",
    "policy",
    "preset",
    "reuse",
]

_HOMES = {
    "core": ("Decision", "Event", "Step", "Summary", "Trace", "check", "compute", "reuse"),
    "engine": ("Ranks", "Session", "attach", "disable", "discover", "enable"),
    "features": (
        "Along",
        "Bounded",
        "Damped",
        "Last",
        "Linear",
        "PredictionError",
        "Predictor",
        "Taylor",
        "View",
        "Weighted",
    ),
    "models": ("BlockList", "BlockSpec", "BlockStack", "Part", "Place", "Site", "Tap"),
    "policies": (
        "AdaCache",
        "Adaptive",
        "BWCache",
        "BlockCaching",
        "BlockwiseAdaptiveCache",
        "DBCache",
        "DBPrune",
        "DeepCache",
        "DiCache",
        "FasterCache",
        "HiCache",
        "HierarchicalLatentCache",
        "MeanCache",
        "MixCache",
        "MagCache",
        "NeverReuse",
        "EasyCache",
        "FirstBlock",
        "FixedInterval",
        "FlashBlock",
        "FlowCache",
        "Foresight",
        "Guarded",
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
        "policy",
        "preset",
    ),
}


_MODULES = ("core", "engine", "errors", "features", "measure", "models", "policies", "report", "shapes")


def __getattr__(name: str) -> Any:
    """Finds a public name where it lives, when it is first asked for: importing bwcache alone does not load torch."""
    if name in _MODULES:
        return importlib.import_module(f"bwcache.{name}")
    if name not in __all__:
        return importlib.import_module("bwcache.former_names").exported(__name__, name)
    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    value = globals()[name] = getattr(importlib.import_module(f"bwcache.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
