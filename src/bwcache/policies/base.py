"""What a policy is: settings that say where, when and how; state that belongs to one run.

A policy is a frozen dataclass whose fields are its paper's parameters. It holds no tensor and knows no module, hook or
rank. The engine asks it, in this order:

1. `sites(stack)` and `taps(stack)` when it is attached: what is reused as one, and where features are measured;
2. `init()` at the start of each run: a fresh state;
3. `decide(observation, state)` each time a forward reaches a site that could be reused;
4. `refresh(observation, state)` once for every real computation, whatever caused it, at the latest before the next
   `decide`: the observation then carries what the taps measured. Not where nothing can ever be reused or measured.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from operator import add
from typing import Any, Generic, TypeVar

from bwcache.core import Decision, Step
from bwcache.features import Last, Predictor
from bwcache.models import BlockStack, Site, Tap

State = TypeVar("State")


@dataclass(frozen=True)
class Measured:
    """What the taps of one forward measured against the last computed step, one entry per tap.

    Numerators and denominators stand apart, so that branches and ranks can be pooled by adding before dividing.
    """

    numerators: tuple[float, ...]
    denominators: tuple[float, ...]

    def __add__(self, other: Measured) -> Measured:
        if len(self.numerators) != len(other.numerators):
            raise ValueError(f"found {len(other.numerators)} taps, expected {len(self.numerators)}")
        return Measured(
            tuple(map(add, self.numerators, other.numerators)), tuple(map(add, self.denominators, other.denominators))
        )

    @cached_property
    def distances(self) -> tuple[float, ...]:
        """Relative change per tap (dimensionless); 0/0 is 0, x/0 is infinite."""
        return tuple(map(_ratio, self.numerators, self.denominators))

    @cached_property
    def mean(self) -> float:
        """Mean of the distances of the blocks that were called."""
        called = [d for d, n, o in zip(self.distances, self.numerators, self.denominators, strict=True) if n or o]
        return sum(called) / len(called) if called else 0.0


@dataclass(frozen=True, slots=True)
class Foretold:
    """How close the predictor would have come to what was computed; sums, so that branches and ranks can be pooled.

    Attributes:
        missed: ||feature - predicted||_1.
        size: ||feature||_1.
        along, square: <d, e> and <d, d>, where d leads from the last feature to the predicted one (undamped), e to
            the true one.
    """

    missed: float
    size: float
    along: float
    square: float

    def __add__(self, other: Foretold) -> Foretold:
        return Foretold(
            self.missed + other.missed, self.size + other.size, self.along + other.along, self.square + other.square
        )

    @property
    def error(self) -> float:
        """Relative L1 error of the prediction (dimensionless)."""
        return _ratio(self.missed, self.size)

    @property
    def damping(self) -> float:
        """The share of d that comes closest to e (least squares), cut to 0..1."""
        share = self.along / self.square if self.square > 0 else 0.0
        return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy may know when it is asked: where we are, at which site, and what the last computation measured."""

    step: Step
    site: str
    measured: Measured | None = None
    foretold: Foretold | None = None


@dataclass(frozen=True)
class Policy(ABC, Generic[State]):
    """Base of all policies; see the module's text for when each method is called."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """What is computed or reused as one: by default the whole stack."""
        return (stack.whole(),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """Where features are measured: by default nowhere."""
        return ()

    @property
    def tap_share(self) -> float | None:
        """Share of the entries that a tap keeps; None for the default budget, 1 for all."""
        return None

    @property
    def feature_predictor(self) -> Predictor | None:
        """How a skipped feature is made; None: nothing is ever kept."""
        return Last()

    @property
    def may_reuse(self) -> bool:
        """Whether these settings can reuse at all: if so, a run that never does is worth a warning."""
        return self.feature_predictor is not None

    @property
    def needs_total(self) -> bool:
        """Whether it never reuses where the number of steps is unknown: then nothing is kept for it either."""
        return False

    @property
    def needs_errors(self) -> bool:
        """Whether it wants to know at each computation how close the predictor would have come."""
        predictor = self.feature_predictor
        return predictor is not None and predictor.damped

    @abstractmethod
    def init(self) -> State:
        """A fresh state for one run."""

    @abstractmethod
    def decide(self, observation: Observation, state: State) -> Decision:
        """Compute or reuse, and why."""

    def refresh(self, observation: Observation, state: State) -> None:
        """Takes note of a real computation."""

    def describe(self) -> dict[str, Any]:
        """Name and settings, ready for JSON."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = (str, int, float, bool, list, tuple, type(None))
        return {"name": type(self).__name__} | {
            name: value if isinstance(value, plain) else repr(value) for name, value in settings.items()
        }

    def check(self, total: int) -> None:
        """Raises `SettingError` where the settings cannot work on a run of `total` steps."""


def _ratio(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return 0.0 if numerator == 0 else math.inf
    return numerator / denominator
