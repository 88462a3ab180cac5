"""Why the engine itself says compute, or reuse, without asking the policy: each has a line in docs/trace.md."""

from __future__ import annotations

NEVER = "never reuses with these settings"
TOTAL_UNKNOWN = "number of steps unknown: pass steps= where nobody says it"
GRADIENT = "a gradient is being recorded (run it under torch.no_grad())"
OTHER_CONDITION = "another prompt or image to go by than before"
OTHER_OPTIONS = "other arguments than before"
OTHER_LATENTS = "latents of something else"
ANOTHER_SHAPE = "another shape, dtype or device than what is kept"
NOT_FINITE = "the last computed feature is not finite"
FIRST_STEP = "first step"
NOTHING_KEPT = "nothing kept to reuse"
LEFT_OUT = "the last block was left out, or blocks ran out of order"
INSIDE = "lies in a reused site"
LEVEL_UNKNOWN = "noise level or kind of prediction unknown"
FILLS_CACHE = "fills a cache of the model's own"
OVER_MEMORY = "over max_memory"
