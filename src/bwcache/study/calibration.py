"""A calibration: uncached runs under the policy with which a method measures, and the table that they make.

What there is to say goes where its name stands: to `measuring`, to `fitted`, or to a field beside the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bwcache.core import Trace
from bwcache.core.words import field_types, hints_of, read_or_fit
from bwcache.engine import attach
from bwcache.errors import SettingError, complaint
from bwcache.measure.call import OnProgress, Request, call
from bwcache.policies import Policy, known
from bwcache.policies.entry import Table

STEPS = "steps"
"""Of the runs; no setting."""
NOT_SAID = ("cls", "traces", STEPS)


def expect_table(kind: type[Policy[Any]]) -> Table:
    """Return which fields of a method are its table.

    Raises:
        SettingError: it has none.
    """
    entry = kind.entry
    if entry is not None and entry.table is not None:
        return entry.table
    having = [name for name, one in known().items() if one.entry is not None and one.entry.table is not None]
    needs = f"what it needs is {entry.calibration}" if entry and entry.calibration else "use it as it is"
    found = f"{kind.__name__}, which has no table to be calibrated"
    raise SettingError(complaint(found, f"one of {', '.join(having)}", needs))


def settings_for(kind: type[Policy[Any]]) -> dict[str, Any]:
    """Return what can be said of a method's calibration: name -> annotation."""
    table = expect_table(kind)
    fields = {name: each for name, each in field_types(kind).items() if name not in table.fields}
    return fields | _parameters(kind.fitted) | _parameters(kind.measuring)


def decides(kind: type[Policy[Any]]) -> str:
    """Return the setting of a method's calibration that says how much is reused."""
    possible = settings_for(kind)
    return "threshold" if "threshold" in possible else next(iter(_parameters(kind.fitted)))


@dataclass(frozen=True)
class Calibration:
    """How a method is calibrated.

    Attributes:
        kind: the method.
        steps: of each run.
        settings: by name, as values.

    Raises:
        SettingError: the method has no table, or there is no such setting.
    """

    kind: type[Policy[Any]]
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        possible = settings_for(self.kind)
        for name in self.settings:
            if name not in possible:
                found = f"{name} in a calibration of {self.kind.__name__}"
                raise SettingError(complaint(found, f"one of {', '.join(possible)}", "leave it out"))

    @classmethod
    def of_words(cls, kind: type[Policy[Any]], steps: int, words: Mapping[str, Any], what: str = "") -> Calibration:
        """Return the calibration with settings in words; raises `SettingError`, which says `what` before each name."""
        possible = settings_for(kind)
        return cls(kind, steps, {name: read_or_fit(text, possible[name], what + name) for name, text in words.items()})

    @property
    def forwards(self) -> int:
        """How often the denoiser is evaluated in each step."""
        return expect_table(self.kind).forwards

    def measuring(self, steps: int | None = None) -> Policy[Any]:
        """Return the policy under which runs are measured; of another number of steps where that is given."""
        taken = inspect.signature(self.kind.measuring).parameters
        given = {STEPS: steps or self.steps} if STEPS in taken else {}
        return self.kind.measuring(**given, **self._for(taken))

    def check(self) -> None:
        """Raises `SettingError` for values that cannot be, as far as that shows without a run."""
        self.measuring()
        table = expect_table(self.kind)
        fields = self._for(name for name in field_types(self.kind) if name not in table.fields)
        if fields:
            self.kind(**({} if table.smallest is None else {table.fields[0]: table.smallest}), **fields)
        try:
            self.fitted(())
        except SettingError as error:
            if f"{self.kind.__name__}.measuring(" not in str(error):
                raise

    def fitted(self, traces: Sequence[Trace]) -> Policy[Any]:
        """Return the policy with the table of these runs.

        Raises:
            SettingError: they are of no use for it, or a setting cannot be.
        """
        taken = inspect.signature(self.kind.fitted).parameters
        own = {*taken, *inspect.signature(self.kind.measuring).parameters}
        policy = self.kind.fitted(traces, **self._for(taken))
        others = {name: value for name, value in self.settings.items() if name not in own}
        return replace(policy, **others) if others else policy

    def _for(self, taken: Iterable[str]) -> dict[str, Any]:
        return {name: self.settings[name] for name in taken if name in self.settings}


def measured(
    pipe: Any, requests: Sequence[Request], calibration: Calibration, on_progress: OnProgress | None = None
) -> Iterator[Trace]:
    """Yield the traces of uncached runs, one for each request.

    Args:
        pipe: a pipeline with its weights.
        requests: what is made.
        calibration: of which method.
        on_progress: told of each step.
    """
    for number, request in enumerate(requests, start=1):
        with attach(pipe, calibration.measuring()) as session:
            call(pipe, request, f"video {number}/{len(requests)}", on_progress)
        yield session.trace


def _parameters(function: Any) -> dict[str, Any]:
    hints = hints_of(function)
    names = [name for name in inspect.signature(function).parameters if name not in NOT_SAID]
    return {name: hints.get(name, Any) for name in names}
