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
    from bwcache.core import Decision, Event, Step, Summary, Trace
    from bwcache.engine import Session, attach, disable, discover, enable
    from bwcache.errors import (
        AlreadyAttached,
        AttachError,
        BlocksChanged,
        BWCacheError,
        MissingExtra,
        MuchKept,
        NeverReused,
        NoBlocksFound,
        NotProven,
        OverBudget,
        RunStopped,
        SettingError,
        SpecMismatch,
        TraceError,
    )
    from bwcache.features import Along, Damped, Last, Linear, PredictionError, Predictor, Taylor, View
    from bwcache.models import BlockList, BlockSpec, BlockStack, Part, Place, Site, Tap
    from bwcache.policies import (
        Adaptive,
        BWCache,
        Compute,
        EasyCache,
        FirstBlock,
        FixedInterval,
        Foresight,
        Observation,
        Policy,
        PyramidAttentionBroadcast,
        Readings,
        Scheduled,
        policy,
        preset,
    )

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "Along",
    "AlreadyAttached",
    "AttachError",
    "BWCache",
    "BWCacheError",
    "BlockList",
    "BlockSpec",
    "BlockStack",
    "BlocksChanged",
    "Compute",
    "Damped",
    "Decision",
    "EasyCache",
    "Event",
    "FirstBlock",
    "FixedInterval",
    "Foresight",
    "Last",
    "Linear",
    "MissingExtra",
    "MuchKept",
    "NeverReused",
    "NoBlocksFound",
    "NotProven",
    "Observation",
    "OverBudget",
    "Part",
    "Place",
    "Policy",
    "PredictionError",
    "Predictor",
    "PyramidAttentionBroadcast",
    "Readings",
    "RunStopped",
    "Scheduled",
    "Session",
    "SettingError",
    "Site",
    "SpecMismatch",
    "Step",
    "Summary",
    "Tap",
    "Taylor",
    "Trace",
    "TraceError",
    "View",
    "attach",
    "disable",
    "discover",
    "enable",
    "policy",
    "preset",
]

_HOMES = {
    "core": ("Decision", "Event", "Step", "Summary", "Trace"),
    "engine": ("Session", "attach", "disable", "discover", "enable"),
    "features": ("Along", "Damped", "Last", "Linear", "PredictionError", "Predictor", "Taylor", "View"),
    "models": ("BlockList", "BlockSpec", "BlockStack", "Part", "Place", "Site", "Tap"),
    "policies": (
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
        "policy",
        "preset",
    ),
}


_MODULES = ("core", "engine", "errors", "features", "measure", "models", "policies", "report", "shapes")


def __getattr__(name: str) -> Any:
    """Finds a public name where it lives, when it is first asked for: importing bwcache alone does not load torch."""
    if name in _MODULES:
        return importlib.import_module(f"bwcache.{name}")
    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    if name not in __all__:
        raise AttributeError(f"module 'bwcache' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"bwcache.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
