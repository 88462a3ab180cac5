"""The record of a run: one row per (step, branch, site), written to and read from JSON lines.

Everything that a person sees afterwards (summary, plots, report) is made from a Trace alone.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bwcache.core.decision import Action
from bwcache.core.files import write_text
from bwcache.core.step import Step
from bwcache.errors import TraceError, complaint

FORMAT = "bwcache-trace-1"

_BYTES = ("peak_bytes", "hidden_bytes", "planned_bytes", "host_bytes", "planned_host_bytes")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened at one site in one forward.

    Attributes:
        run, step, total, timestep, sigma, branch, sample: as in `Step` (step is its index).
        site: what was computed or reused as one, such as "transformer/stack".
        action: "compute" or "reuse".
        reason: why, in words.
        indicator: mean of `distances` (Eq. 7 of the paper, dimensionless); None on reuse and on a first computation.
        distances: relative L1 change of each tapped block (Eq. 5, dimensionless).
        seconds: time inside the site's blocks, with `timing=True`.
        indicator_seconds: time spent on the taps and their reduction, with `timing=True`.
        error: relative L1 error that the prediction of this computed feature would have had (dimensionless), where
            the policy asks for it.
    """

    run: int
    step: int
    total: int | None
    timestep: float | None
    sigma: float | None
    branch: str
    site: str
    action: Action
    reason: str
    indicator: float | None = None
    distances: tuple[float, ...] | None = None
    seconds: float | None = None
    indicator_seconds: float | None = None
    sample: int | None = None
    error: float | None = None

    @classmethod
    def at(cls, step: Step, **values: Any) -> Event:
        """An event of this step."""
        where = (step.run, step.index, step.total, step.timestep, step.sigma, step.branch)
        return cls(*where, sample=step.sample, **values)


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers; `str()` gives it in sentences."""

    steps: int
    computed: int
    reused: int
    reuse_rate: float
    first_trigger: int | None
    reasons: dict[str, int]
    indicator_min: float | None
    indicator_max: float | None
    peak_bytes: int
    hidden_bytes: int
    planned_bytes: int = 0
    host_bytes: int = 0
    planned_host_bytes: int = 0

    def __str__(self) -> str:
        lines = [f"{self.steps} steps: {self.computed} computed, {self.reused} reused ({self.reuse_rate:.1%})."]
        if self.first_trigger is not None:
            lines.append(f"Reuse first triggered at step {self.first_trigger}.")
        if self.indicator_min is not None and self.indicator_max is not None:
            lines.append(f"The indicator went from {self.indicator_min:.4f} to {self.indicator_max:.4f}.")
        if self.hidden_bytes:
            held = self.peak_bytes / self.hidden_bytes
            planned = f"; planned before the first: {self.planned_bytes:,}" if self.planned_bytes else ""
            lines.append(f"Kept between steps: {self.peak_bytes:,} bytes, {held:.2f} hidden states{planned}.")
        if self.host_bytes or self.planned_host_bytes:
            lines.append(f"In main memory: {self.host_bytes:,} bytes; planned: {self.planned_host_bytes:,}.")
        lines += [f"  {count:4d} x {reason}" for reason, count in self.reasons.items()]
        return "\n".join(lines)


@dataclass
class Trace:
    """Append-only rows of one run and what was known about it (`meta`).

    Attributes:
        peak_bytes: held on the device between steps, at most.
        hidden_bytes: one hidden state.
        planned_bytes: what `peak_bytes` was expected to be, before the first block ran.
        host_bytes, planned_host_bytes: the same of main memory, with `memory="offload"`.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    peak_bytes: int = 0
    hidden_bytes: int = 0
    planned_bytes: int = 0
    host_bytes: int = 0
    planned_host_bytes: int = 0

    def _reused_by_step(self) -> dict[int, bool]:
        """For each step, whether all its branches and sites were reused."""
        reused: dict[int, bool] = {}
        for event in self.events:
            reused[event.step] = reused.get(event.step, True) and event.action == "reuse"
        return reused

    @property
    def steps(self) -> int:
        """Number of distinct steps seen."""
        return len(self._reused_by_step())

    @property
    def reused(self) -> int:
        """Steps that every branch and site reused."""
        return sum(self._reused_by_step().values())

    @property
    def computed(self) -> int:
        """Steps in which at least one branch or site was computed."""
        return self.steps - self.reused

    @property
    def reuse_rate(self) -> float:
        """Share of the rows that were reused, 0..1: what saves time, whatever the branches did."""
        reused = sum(event.action == "reuse" for event in self.events)
        return reused / len(self.events) if self.events else 0.0

    @property
    def first_trigger(self) -> int | None:
        """k of the paper: the index of the first reused step, or None."""
        return next((step for step, reused in sorted(self._reused_by_step().items()) if reused), None)

    def summary(self) -> Summary:
        """The run in numbers."""
        indicators = [e.indicator for e in self.events if e.indicator is not None and math.isfinite(e.indicator)]
        return Summary(
            steps=self.steps,
            computed=self.computed,
            reused=self.reused,
            reuse_rate=self.reuse_rate,
            first_trigger=self.first_trigger,
            reasons=dict(Counter(f"{e.action}: {_without_numbers(e.reason)}" for e in self.events).most_common()),
            indicator_min=min(indicators, default=None),
            indicator_max=max(indicators, default=None),
            **self._bytes,
        )

    @property
    def _bytes(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _BYTES}

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Writes one JSON object per line, the head first; the file appears whole or not at all."""
        head = {"format": FORMAT, "meta": self.meta, **self._bytes}
        rows = [head, *(asdict(event) for event in self.events)]
        write_text(Path(path), "".join(json.dumps(_encoded(row)) + "\n" for row in rows))

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> Trace:
        """Reads what `to_jsonl` wrote.

        Raises:
            TraceError: the file is not such a trace.
        """
        try:
            head, *rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
            if head["format"] != FORMAT:
                raise ValueError(f"format {head['format']!r}")
            since = {name: head.get(name, 0) for name in _BYTES[2:]}  # which older files do not have
            events = [_event(row) for row in rows]
            return cls(head["meta"], events, head["peak_bytes"], head["hidden_bytes"], **since)
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(
                complaint(
                    f"{path} that cannot be read ({error})",
                    f"a file of format {FORMAT}",
                    "write it again with Trace.to_jsonl",
                )
            ) from error


def reuse_line(events: Iterable[Event]) -> str:
    """One letter per step: C computed, r reused, m mixed (branches or sites differ)."""
    actions: dict[int, set[str]] = {}
    for event in events:
        actions.setdefault(event.step, set()).add(event.action)
    letters = {frozenset({"compute"}): "C", frozenset({"reuse"}): "r"}
    return "".join(letters.get(frozenset(actions[step]), "m") for step in sorted(actions))


def _without_numbers(reason: str) -> str:
    """The reason's kind: what stands before its figures."""
    return reason.split(" (", 1)[0]


_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _encoded(value: Any) -> Any:
    """JSON knows no NaN: non-finite numbers are written as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


_WORDS = {"branch", "site", "action", "reason"}


def _event(row: dict[str, Any]) -> Event:
    unknown = set(row) - {f.name for f in fields(Event)}
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    values = {key: value if key in _WORDS else _decoded(value) for key, value in row.items()}
    if values.get("distances") is not None:
        values["distances"] = tuple(_decoded(d) for d in values["distances"])
    if values.get("action") not in ("compute", "reuse"):
        raise ValueError(f"action {values.get('action')!r}")
    return Event(**values)
