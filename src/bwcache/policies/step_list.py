"""StepList: compute the steps that a list names and reuse all others.

No paper: what a search with the truth at hand finds is run with it (`benchmarks/oracle.py`), and whoever has found a
schedule for a model and a number of steps can use it without any indicator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from bwcache.core import Decision, compute, reuse
from bwcache.features import Last, Predictor
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, expect_predictor, whole
from bwcache.policies.entry import Entry


@dataclass(frozen=True)
class StepList(Policy[None]):
    """Computes the steps of a list, and the first one.

    Args:
        steps: indices from 0. A tuple of such tuples gives each sample of a batch a list of its own, in turn.
        predictor: how a skipped feature is made.

    Raises:
        SettingError: no step, or something that is no index.
    """

    entry = Entry(
        keeps="1",
        reads="nothing",
        verified="lists, and one for each sample of a batch, worked out by hand",
        origin="this project",
    )

    steps: tuple[int, ...] | tuple[tuple[int, ...], ...]
    predictor: Predictor = field(default_factory=Last)

    def __post_init__(self) -> None:
        lists = self._lists() if isinstance(self.steps, (tuple, list)) and self.steps else []
        indices = [step for some in lists for step in (some if isinstance(some, (tuple, list)) else (None,))]
        plain = all(whole(step, 0) for step in indices)
        fine = bool(lists) and all(lists) and plain
        expect(fine, "steps", self.steps, "step indices from 0", "(0, 1, 2, 5, 10)")
        expect_predictor(self.predictor)

    @property
    def feature_predictor(self) -> Predictor:
        """`predictor`."""
        return self.predictor

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """Looks it up."""
        lists = self._lists()
        if observation.step.index in lists[(observation.step.sample or 0) % len(lists)]:
            return compute("on the list")
        return reuse("not on the list")

    def _lists(self) -> list[tuple[int, ...]]:
        """One list for each sample, in turn."""
        nested = any(isinstance(some, (tuple, list)) for some in self.steps)
        return list(cast(Any, self.steps)) if nested else [cast(Any, self.steps)]
