"""Never reuse: the baseline that carries the engine, and if asked for what the blocks' outputs say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bwcache.core import Decision, compute
from bwcache.models import BlockStack, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, one_of, share
from bwcache.policies.entry import Entry


@dataclass(frozen=True)
class NeverReuse(Policy[None]):
    """Computes every step and keeps no feature: what the engine costs, where the blocks' time goes, what changes.

    Args:
        measures: share of the entries of every block's output that is compared with the step before, 0..1;
            "default" for the samples that BWCache takes if it is not told otherwise; None to measure nothing.

    Raises:
        SettingError: a share outside its range.
    """

    entry = Entry(
        keeps="nothing",
        reads="nothing, or what BWCache reads",
        verified="the readings of BWCache, and runs in which nothing else changes",
        origin="the plain baseline",
    )

    measures: float | Literal["default"] | None = None

    def __post_init__(self) -> None:
        fine = self.measures is None or one_of(self.measures, ("default",)) or share(self.measures)
        expect(fine, "measures", self.measures, "a share in (0, 1], 'default' or None", "1 for all entries")

    @property
    def feature_predictor(self) -> None:
        """Nothing is kept."""
        return None

    @property
    def tap_share(self) -> float | None:
        """`measures`, as a tap understands it."""
        return None if isinstance(self.measures, str) else self.measures

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """All blocks, or none."""
        return () if self.measures is None else stack.taps()

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """Always compute."""
        return compute("never reuses with these settings")
