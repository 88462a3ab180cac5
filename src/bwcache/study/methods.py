"""What takes part in a study: a way to make the same video with less work."""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bwcache.core.trace import Trace
from bwcache.engine import attach
from bwcache.errors import NeverReusedWarning, SettingError, complaint
from bwcache.former_names import former_description
from bwcache.measure.call import Request
from bwcache.policies import Policy


@dataclass
class Seen:
    """What a method knows of its run once the call is over.

    Attributes:
        trace: every decision, where there is one.
        kept_bytes: held between steps; None where it cannot be told.
        notes: what a person should know of this run.
    """

    trace: Trace | None = None
    kept_bytes: int | None = None
    notes: tuple[str, ...] = ()


class Method(ABC):
    """A way to make the same video with less work. Settings only: nothing is kept from run to run."""

    @property
    @abstractmethod
    def family(self) -> str:
        """What its settings are settings of: a method's name."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that its result depends on, ready for JSON."""

    @property
    def label(self) -> str:
        """Family and settings in a few words."""
        inside = ", ".join(f"{name} {value}" for name, value in self.settings().items())
        return f"{self.family} ({inside})" if inside else self.family

    @property
    def former(self) -> tuple[str, dict[str, Any]] | None:
        """Family and settings as the release before wrote them, where that was otherwise."""
        return None

    def request(self, request: Request) -> Request:
        """What it asks of the pipeline in place of the full request."""
        return request

    def rehearsal(self, few: Request) -> Request | None:
        """What to ask for before the first measured run, given a request of few steps; None for nothing."""
        return None

    @abstractmethod
    def at_work(self, pipe: Any) -> AbstractContextManager[Seen]:
        """The pipeline with this method on it; as it was before afterwards.

        Raises:
            BWCacheError: it cannot work on this pipeline; the text says why.
        """


@dataclass(frozen=True)
class UnderPolicy(Method):
    """One of this project's policies.

    Args:
        policy: the settings.
        shown: the fields that the label names; None for all that differ from their defaults.
    """

    policy: Policy[Any]
    shown: tuple[str, ...] | None = field(default=None, compare=False)

    @property
    def family(self) -> str:
        """The policy's name."""
        return type(self.policy).__name__

    @property
    def label(self) -> str:
        """Name and the fields that matter."""
        plain = self.settings()
        shown = self.shown if self.shown is not None else tuple(_changed(self.policy))
        inside = ", ".join(f"{name} {_short(plain[name])}" for name in shown)
        return f"{self.family} ({inside})" if inside else self.family

    def settings(self) -> dict[str, Any]:
        """All fields."""
        described = self.policy.describe()
        described.pop("name")
        return described

    @property
    def former(self) -> tuple[str, dict[str, Any]] | None:
        """With the former names of the policy and its fields."""
        now = self.policy.describe()
        before = former_description(now)
        if before == now:
            return None
        name = before.pop("name")
        return (name if self.family == now["name"] else self.family), before

    def rehearsal(self, few: Request) -> Request | None:
        """A few steps: what the policy measures with is built at its first use."""
        return few

    @contextmanager
    def at_work(self, pipe: Any) -> Iterator[Seen]:
        """Attached, without timing inside."""
        seen = Seen()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", category=NeverReusedWarning)
            with attach(pipe, self.policy) as session:
                yield seen
        seen.trace = session.trace
        seen.kept_bytes = session.trace.peak_bytes
        seen.notes = tuple(dict.fromkeys(str(one.message) for one in caught))


@dataclass(frozen=True)
class FewerSteps(Method):
    """No caching at all, only fewer steps: what every method has to beat.

    Args:
        steps: of the run.
        solver: name of the scheduler in place of the pipeline's own, or None.
        replace: makes that scheduler from the pipeline's own.
    """

    steps: int
    solver: str | None = None
    replace: Callable[[Any], Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError(complaint(f"{self.steps} steps", "at least 1", "choose more"))

    @property
    def family(self) -> str:
        """With the solver's name, if it is not the pipeline's own."""
        return "fewer steps" if self.solver is None else f"fewer steps, {self.solver}"

    @property
    def label(self) -> str:
        """Family and number."""
        return f"{self.family} ({self.steps})"

    def settings(self) -> dict[str, Any]:
        """Steps and solver."""
        return {"steps": self.steps, "solver": self.solver}

    def request(self, request: Request) -> Request:
        """The same with fewer steps."""
        return dataclasses.replace(request, steps=self.steps)

    @contextmanager
    def at_work(self, pipe: Any) -> Iterator[Seen]:
        """With the other scheduler, if there is one.

        Raises:
            SettingError: there is no such scheduler for this pipeline, or the pipeline cannot work with it.
        """
        if self.replace is None:
            yield Seen(kept_bytes=0)
            return
        own = pipe.scheduler
        pipe.scheduler = self.replace(own)
        try:
            yield Seen(kept_bytes=0)
        except ValueError as error:
            found = f"{type(pipe).__name__} that does not work with {self.solver} ({error})"
            raise SettingError(complaint(found, "a pipeline that does", "compare with its own steps")) from error
        finally:
            pipe.scheduler = own


def _changed(policy: Policy[Any]) -> list[str]:
    try:
        default = type(policy)()
    except TypeError:  # a field without a default
        return [field.name for field in dataclasses.fields(policy)]
    return [f.name for f in dataclasses.fields(policy) if getattr(policy, f.name) != getattr(default, f.name)]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value).removesuffix("()")
