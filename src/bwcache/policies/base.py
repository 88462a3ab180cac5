"""What a policy is: settings that say where, when and how; state that belongs to one run.

A policy is a frozen dataclass whose fields are its paper's parameters. It holds no tensor and knows no module, hook or
rank. The engine asks it, in this order:

1. `sites(stack)` and `taps(stack)` when it is attached: what is reused as one, and where features are measured;
2. `init()` at the start of each run: a fresh state;
3. `decide(observation, state)` for each site that could be reused: before the forward begins, or, where the policy
   `probes`, when the forward reaches the site. It is not asked where nothing can be reused: at a site of which nothing
   is kept, or at all where `may_reuse` is false;
4. `refresh(observation, state)` once for every real computation of a site, whatever caused it, at the latest before the
   next `decide`: the observation then carries what the taps measured.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import add
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from bwcache.core import Decision, Step, Trace
from bwcache.errors import SettingError, complaint
from bwcache.features import Last, PredictionError, Predictor
from bwcache.features.prediction_error import ratio
from bwcache.former_names import reads_former_fields
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.entry import Entry
from bwcache.policies.published import settings_for

State = TypeVar("State")
Own = TypeVar("Own", bound="Policy[Any]")


@dataclass(frozen=True)
class Readings:
    """What the taps of one forward measured, one entry per tap and lag, in the policy's order.

    Numerators and denominators stand apart, so that branches and ranks can be pooled by adding before dividing. Both
    are 0 where a tap measured nothing: its place was not called, or never before.

    Attributes:
        channels: for each entry, which of several indicators it is a part of (`Tap.channel`); empty: there is but one.
        places: for each entry, the name of the place at which it was taken.
    """

    numerators: tuple[float, ...]
    denominators: tuple[float, ...]
    channels: tuple[int, ...] = ()
    places: tuple[str, ...] = ()

    def __add__(self, other: Readings) -> Readings:
        if len(self.numerators) != len(other.numerators):
            raise ValueError(f"found {len(other.numerators)} taps, expected {len(self.numerators)}")
        numerators = tuple(map(add, self.numerators, other.numerators))
        return replace(self, numerators=numerators, denominators=tuple(map(add, self.denominators, other.denominators)))

    def __getitem__(self, tap: int) -> float | None:
        """The change at one tap (dimensionless); None where it measured nothing."""
        numerator, denominator = self.numerators[tap], self.denominators[tap]
        return ratio(numerator, denominator) if numerator or denominator else None

    def at(self, place: str) -> float | None:
        """Return the change at the first tap of a place, by its name; None where it measured nothing, or is none."""
        return self[self.places.index(place)] if place in self.places else None

    @cached_property
    def distances(self) -> tuple[float, ...]:
        """Relative change per tap (dimensionless); 0/0 is 0, x/0 is infinite."""
        found = []
        for numerator, denominator in zip(self.numerators, self.denominators, strict=True):
            found.append(numerator / denominator if denominator else ratio(numerator, denominator))
        return tuple(found)

    @cached_property
    def mean(self) -> float:
        """Mean of the distances of the taps that measured anything; of several channels the largest."""
        channels = self.channels or (0,) * len(self.numerators)
        called: dict[int, list[float]] = {}
        for channel, distance, n, o in zip(channels, self.distances, self.numerators, self.denominators, strict=True):
            if n or o:
                called.setdefault(channel, []).append(distance)
        largest = 0.0
        for measured in called.values():
            mean = sum(measured) / len(measured)
            if math.isnan(mean):
                return mean
            largest = max(largest, mean)
        return largest


@reads_former_fields
@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy may know when it is asked.

    Attributes:
        step: where in the run.
        site: which site, by its name.
        last: what the taps measured in the last computed forward; there already. In `refresh`, of the forward itself.
        error: how close the predictor would have come there, where the policy `needs_errors`.
        denoiser: which of the pipeline's denoisers, such as "transformer_2".
        kind: of the place at which the site begins: "root", "block", or the kind of a part, such as "cross".
        evaluated_at: in `refresh`, the share of noise, 1..0, at which a denoiser was evaluated; None: in place.
    """

    step: Step
    site: str
    last: Readings | None = None
    error: PredictionError | None = None
    denoiser: str = ""
    look: Callable[[], Readings] | None = None
    kind: str = "block"
    evaluated_at: float | None = None

    @property
    def now(self) -> Readings:
        """What the taps measured in this forward so far; waits for the device. For policies that `probes`.

        Raises:
            ValueError: the policy does not probe, so it was asked before the forward began.
        """
        if self.look is None:
            raise ValueError("found a look into this forward; expected `probes` to be True; say so in the policy")
        return self.look()


@dataclass(frozen=True)
class Policy(ABC, Generic[State]):
    """Base of all policies; see the module's text for when each method is called."""

    entry: ClassVar[Entry | None] = None
    """What the catalogue says of it (`bwcache methods`)."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """What is computed or reused as one: by default the whole stack."""
        return (stack.whole(),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """Where features are measured: by default nowhere."""
        return ()

    @property
    def denoisers(self) -> tuple[str, ...]:
        """The denoisers of a pipeline that it names; none: it acts on any."""
        return ()

    def of_denoiser(self, name: str) -> Policy[Any]:
        """Return the policy that acts on one denoiser: by default itself."""
        return self

    @property
    def tap_share(self) -> float | None:
        """Share of the entries that a tap keeps; None for the default budget, 1 for all."""
        return None

    @property
    def probes(self) -> bool:
        """Whether `decide` looks at what this very forward measured (`now`): then it is asked at the site itself."""
        return False

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
    def looks_ahead(self) -> bool:
        """Whether a decision may ask for an evaluation at another noise level (`at`): the latents are kept for it."""
        return False

    @property
    def needs_errors(self) -> bool:
        """Whether it wants to know at each computation how close the predictor would have come."""
        predictor = self.feature_predictor
        return predictor is not None and predictor.needs_errors

    @abstractmethod
    def init(self) -> State:
        """A fresh state for one run."""

    @abstractmethod
    def decide(self, observation: Observation, state: State) -> Decision:
        """Compute or reuse, and why."""

    def refresh(self, observation: Observation, state: State) -> None:
        """Takes note of a real computation."""

    @classmethod
    def measuring(cls, *args: Any, **settings: Any) -> Policy[Any]:
        """Return the policy under which uncached runs record what `fitted` makes a table of.

        A parameter `steps` is the number of steps of these runs.

        Raises:
            SettingError: this one has no table.
        """
        raise _no_table(cls)

    @classmethod
    def fitted(cls, traces: Sequence[Trace], *args: Any, **settings: Any) -> Policy[Any]:
        """Return the policy with the table that these runs make; pure: the traces are all that it reads.

        Raises:
            SettingError: this one has no table, or the runs are of no use for it.
        """
        raise _no_table(cls)

    @classmethod
    def authors_table(cls, content: Any) -> dict[str, Any] | None:
        """Return the fields that a table means as the method's authors publish it, read from JSON; None: it is none."""
        return None

    @classmethod
    def spelled_out(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings in words with the fields that `table` and `published` stand for, as inside of `Guarded`.

        Raises:
            SettingError: a field is missing, the file holds no such table, or nothing is published for the checkpoint.
        """
        from bwcache.policies.known import spelled_out

        return spelled_out(cls, settings)

    @classmethod
    def load(cls: type[Own], path: str | Path, **settings: Any) -> Own:
        """Return the policy with the table of a file.

        Args:
            path: what `bwcache calibrate` wrote, or a table as the method's authors publish it.
            settings: fields that shall be otherwise.

        Raises:
            SettingError: it cannot be read, is none of this method, or this one has no table.
        """
        from bwcache.policies.table_file import loaded

        return loaded(cls, path, settings)

    @classmethod
    def published(cls: type[Own], checkpoint: str, **settings: Any) -> Own:
        """Return the policy with what was published for a checkpoint; `bwcache methods NAME` lists them.

        Args:
            checkpoint: its name there, such as "HunyuanVideo" or "HunyuanVideo fast".
            settings: fields that shall be otherwise, and those that were not published and have no default.

        Raises:
            SettingError: nothing is known of that name, a field is still to be said, or a value cannot be.
        """
        from bwcache.policies.known import made

        found = made(cls, {**settings_for(cls, checkpoint), **settings})
        assert isinstance(found, cls)
        return found

    def citation(self) -> str:
        """Return the BibTeX entry of its paper, or those of the policies inside; empty where there is none."""
        return self.entry.paper.bibtex if self.entry and self.entry.paper else ""

    def describe(self) -> dict[str, Any]:
        """Return name and settings, ready for JSON; `bwcache.policy` makes the policy of them again."""
        settings = {field.name: _described(getattr(self, field.name)) for field in fields(self) if field.init}
        return {"name": type(self).__name__} | settings

    def at_work(self, stack: BlockStack) -> AbstractContextManager[None]:
        """Return what stands in the denoiser while the policy is attached; by default nothing does."""
        return nullcontext()

    def check(self, total: int) -> None:
        """Raises `SettingError` where the settings cannot work on a run of `total` steps."""


def _no_table(kind: type) -> SettingError:
    return SettingError(complaint(f"{kind.__name__} to be calibrated", "a policy with a table", "use it as it is"))


def _described(value: Any) -> Any:
    if isinstance(value, Policy):
        return value.describe()
    if isinstance(value, (list, tuple)):
        return [*map(_described, value)] if isinstance(value, list) else tuple(map(_described, value))
    if isinstance(value, (set, frozenset)):
        return sorted(map(_described, value), key=repr)
    if isinstance(value, Mapping):
        return {str(key): _described(inner) for key, inner in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
