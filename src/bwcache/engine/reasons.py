"""Why the engine itself says compute, or reuse, without asking the policy: each has a line in docs/trace.md."""

from __future__ import annotations

from collections.abc import Mapping

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
FORGOTTEN = f"{NOTHING_KEPT}, as told"
TOLD_ALONE = "this rank alone was told to forget it: replayed until the next step that computes"
LEFT_OUT = "the last block was left out, or blocks ran out of order"
INSIDE = "lies in a reused site"
STANDS_BESIDE = "another branch is made of this one"
NOBODY_BESIDE = "the branch that it is made of has not run in this step"
LEVEL_UNKNOWN = "noise level or kind of prediction unknown"
FILLS_CACHE = "fills a cache of the model's own"
OVER_MEMORY = "over max_memory"
ANOTHER_RANK = "another rank computes, and they share what is inside of the blocks"

REMEDIES: Mapping[str, str] = {
    LEVEL_UNKNOWN: "choose a policy that needs neither: `bwcache methods` says what each one reads",
    GRADIENT.partition(" (")[0]: "run it under torch.no_grad()",
}
"""What to do where nothing is reused in a whole run, by what stands of the reason before its bracket."""
