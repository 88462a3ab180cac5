"""Never reuse: the baseline that carries the engine and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from bwcache.core import Decision
from bwcache.core.decision import compute
from bwcache.policies.base import Observation, Policy


@dataclass(frozen=True)
class Compute(Policy[None]):
    """Computes every step and measures nothing: what the engine costs, and where the blocks' time goes."""

    @property
    def feature_predictor(self) -> None:
        """Nothing is kept."""
        return None

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """Always compute."""
        return compute("always")
