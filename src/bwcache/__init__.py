"""Block-wise caching for video diffusion transformers (BWCache, arXiv 2509.13789) and an engine for caching methods.

```python
import bwcache

with bwcache.attach(pipe, bwcache.BWCache(threshold=0.15)) as session:
    video = pipe(prompt, num_inference_steps=50).frames
print(session.trace.summary())
```
"""

from bwcache.core import Decision, Event, Step, Summary, Trace
from bwcache.engine import Session, attach, disable, enable
from bwcache.errors import (
    AlreadyAttached,
    AttachError,
    BWCacheError,
    NeverReused,
    NoBlocksFound,
    SettingError,
    SpecMismatch,
    TraceError,
)
from bwcache.features import Last, Linear, Predictor, Taylor
from bwcache.models import BlockList, BlockSpec
from bwcache.policies import BWCache, Compute, Observation, Policy

__version__ = "0.1.0"

__all__ = [
    "AlreadyAttached",
    "AttachError",
    "BWCache",
    "BWCacheError",
    "BlockList",
    "BlockSpec",
    "Compute",
    "Decision",
    "Event",
    "Last",
    "Linear",
    "NeverReused",
    "NoBlocksFound",
    "Observation",
    "Policy",
    "Predictor",
    "Session",
    "SettingError",
    "SpecMismatch",
    "Step",
    "Summary",
    "Taylor",
    "Trace",
    "TraceError",
    "attach",
    "disable",
    "enable",
]
