"""The policies that goldens are recorded with, by name: one of each kind, with settings that reuse on tiny models.

Only what is public is used, so that the same script runs on the code before and after a change. Where a name was or
will be changed, both are tried.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import bwcache


def _public(*names: str) -> Any:
    """The first of these names that there is."""
    return next(found for name in names if (found := getattr(bwcache, name, None)) is not None)


def _with(policy: type, settings: dict[str, Any], *names: str, value: Any) -> Any:
    """The policy with one more setting, which is called by the first of these names that it has."""
    known = inspect.signature(policy).parameters
    return policy(**settings, **{next(name for name in names if name in known): value})


NeverReuse = _public("NeverReuse", "Compute")
StepList = _public("StepList", "Scheduled")
GREEDY: dict[str, Any] = {"threshold": 10.0, "reuse_interval": 2}


@dataclass(frozen=True)
class Residual(bwcache.FixedInterval):
    """Keeps what the stack adds to what enters it."""

    def sites(self, stack: Any) -> Any:
        """The whole stack."""
        return (stack.whole("residual"),)


@dataclass(frozen=True)
class EachBlock(bwcache.Policy[Any]):
    """Every block is a site, and every third forward of each is computed: neighbours at different steps."""

    def sites(self, stack: Any) -> Any:
        """One per block."""
        return block_sites(stack)

    def init(self) -> Counter[tuple[int, str]]:
        """How many sites were asked in each forward."""
        return Counter()

    def decide(self, observation: Any, state: Counter[tuple[int, str]]) -> Any:
        """By the step and by how many sites of this forward were asked before."""
        step = observation.step
        state[step.index, step.branch] += 1
        computes = step.index == 0 or (step.index + state[step.index, step.branch]) % 3 == 0
        return bwcache.Decision("compute" if computes else "reuse", "in turns")


def block_sites(stack: Any) -> tuple[Any, ...]:
    """A site of each block, with all that the block returns."""
    return tuple(_site(stack, i, block) for i, block in enumerate(stack.blocks))


def _site(stack: Any, i: int, block: Any) -> Any:
    named: dict[str, Any] = {"name": f"block {i}", "streams": tuple(stream.name for stream in block.streams)}
    return stack.site(block, **named) if hasattr(stack, "site") else replace(stack.whole(), first=i, last=i, **named)


POLICIES: dict[str, Any] = {
    "bwcache": bwcache.BWCache(**GREEDY),
    "bwcache .15": bwcache.BWCache(),
    "bwcache per branch": bwcache.BWCache(threshold=0.25, reuse_interval=2, decision="per_branch"),
    "bwcache exact": _with(bwcache.BWCache, GREEDY, "sample", "token_sample", value=1),
    "adaptive": bwcache.Adaptive(tolerance=0.1),
    "last": bwcache.FixedInterval(interval=3, predictor=bwcache.Last()),
    "linear": bwcache.FixedInterval(interval=3, predictor=bwcache.Linear()),
    "taylor": bwcache.FixedInterval(interval=2, predictor=bwcache.Taylor(2)),
    "damped": bwcache.FixedInterval(interval=2, predictor=bwcache.Damped()),
    "scheduled": StepList((0, 1, 4, 6)),
    "scheduled in turn": StepList(((0, 1, 4), (0, 2, 5))),
    "measures": NeverReuse(measures="default"),
    "residual": Residual(interval=3),
    "each block": EachBlock(),
}
