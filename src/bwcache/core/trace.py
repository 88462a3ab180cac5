"""The record of a run: one row per (step, branch, site), written to and read from JSON lines.

Everything that a person sees afterwards (summary, plots, report) is made from a Trace alone.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from bwcache.core.decision import Action
from bwcache.core.files import parse_json, write_text
from bwcache.core.kinds import OBJECT, TEXT, WHOLE, Kind, check, count, fault, is_number, maybe
from bwcache.core.step import Step
from bwcache.core.words import shown
from bwcache.errors import TraceError, complaint
from bwcache.former_names import current_meta

FORMAT = "bwcache-trace-1"

MOST_STEPS = 100_000
"""No run has as many steps: a row that claims more is damage, and would be drawn for ever."""

_BYTES = ("peak_bytes", "hidden_bytes", "planned_bytes", "host_bytes", "planned_host_bytes")


@dataclass(slots=True)
class Event:
    """What happened at one site in one forward: a row, completed when what was measured has arrived.

    Attributes:
        run, step, total, timestep, sigma, branch, sample: as in `Step` (step is its index).
        site: what was computed or reused as one, such as "transformer/stack".
        action: "compute", "reuse" or "check".
        reason: why, in words.
        indicator: mean of `distances` (Eq. 7 of the paper, dimensionless); None on reuse and on a first computation.
        distances: relative L1 change of each tapped block (Eq. 5, dimensionless).
        seconds: time inside the site's blocks, with `timing=True`.
        indicator_seconds: time spent on the taps and their reduction, with `timing=True`.
        error: relative L1 error that the prediction of this computed feature would have had (dimensionless), where
            the policy asks for it.
        value: the number that the decision rests on, in the unit of its policy; None where there is none.
        evaluated_at: the share of noise, 1..0, at which a denoiser was evaluated; None: where it was called.
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
    value: float | None = None
    evaluated_at: float | None = None

    @classmethod
    def at(cls, step: Step, **values: Any) -> Event:
        """An event of this step."""
        where = (step.run, step.index, step.total, step.timestep, step.sigma, step.branch)
        return cls(*where, sample=step.sample, **values)


def kept_in(sites: Iterable[str]) -> str:
    """Return what is counted where memory is: hidden states, or where the denoiser itself is the site, predictions.

    Args:
        sites: by name, such as "transformer/stack".
    """
    places = {site.rpartition("/")[2] for site in sites}
    return "tensors of the latents' shape" if places == {"root"} else "hidden states"


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers; `str()` gives it in sentences.

    Attributes:
        steps, computed, reused, mixed, reuse_rate, first_trigger: as those of `Trace`.
        reasons: each kind of reason, and how many rows have it.
        indicator_min, indicator_max: of those that are finite; None where nothing was measured.
        peak_bytes, hidden_bytes, planned_bytes, host_bytes, planned_host_bytes: as those of `Trace`.
        sites: the share of each site's rows that were reused, 0..1.
        ranks: who decided together, in words; None where there is one process alone.
    """

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
    mixed: int = 0
    sites: dict[str, float] = field(default_factory=dict)
    ranks: str | None = None

    def __str__(self) -> str:
        lines = [self._of_steps(), *self._of_sites()]
        if self.ranks is not None:
            lines.append(f"Ranks: {self.ranks}.")
        if self.first_trigger is not None:
            lines.append(f"Reuse first triggered at step {self.first_trigger}.")
        if self.indicator_min is not None and self.indicator_max is not None:
            lines.append(f"The indicator went from {self.indicator_min:.4f} to {self.indicator_max:.4f}.")
        if self.hidden_bytes:
            held = self.peak_bytes / self.hidden_bytes
            planned = f"; planned before the first: {self.planned_bytes:,}" if self.planned_bytes else ""
            lines.append(f"Kept between steps: {self.peak_bytes:,} bytes, {held:.2f} {kept_in(self.sites)}{planned}.")
        if self.host_bytes or self.planned_host_bytes:
            lines.append(f"In main memory: {self.host_bytes:,} bytes; planned: {self.planned_host_bytes:,}.")
        lines += [f"  {count:4d} x {reason}" for reason, count in self.reasons.items()]
        return "\n".join(lines)

    def _of_steps(self) -> str:
        part = f" ({self.mixed} of them in part)" if self.mixed else ""
        everywhere = "" if self._covers_all else f" at {'its site' if len(self.sites) == 1 else 'all sites'}"
        rate = f"; {self.reuse_rate:.1%} of the rows" if self.mixed else f" ({self.reuse_rate:.1%})"
        return f"{self.steps} steps: {self.computed} computed{part}, {self.reused} reused{everywhere}{rate}."

    def _of_sites(self) -> list[str]:
        """How much of each site was reused, those alike in one line, where the sites are not all there is."""
        if self._covers_all:
            return []
        alike: dict[str, list[float]] = {}
        for site, share in self.sites.items():
            alike.setdefault(re.sub(r"\.\d+", ".*", site) if len(self.sites) > 1 else site, []).append(share)
        found = (f"{_range(shares)} of {site}{_sites(len(shares))}" for site, shares in alike.items())
        return [f"Reused: {', '.join(found)}. What is no site was computed in every step."]

    @property
    def _covers_all(self) -> bool:
        """Whether each denoiser's stack, or all of it, is one site: then a step that is reused is reused as a whole."""
        return all(site.rpartition("/")[2] in ("stack", "root") for site in self.sites)


@dataclass
class Trace:
    """Append-only rows of one run and what was known about it (`meta`).

    Steps are counted as wholes: one counts as reused when every row of it (branch, sample and site) was. With several
    sites, where some blocks are reused and others not, there may be no such step: `reuse_rate` counts the rows,
    `mixed` the steps in which both happened, and `sites` tells each site's share. What is no site of the policy, such
    as the block that it probes, has no rows: it is computed in every step.

    Attributes:
        peak_bytes: held on the device between steps, at most.
        hidden_bytes: one hidden state: the largest single feature that was kept, whatever the number of sites. Where
            the denoiser itself is the site, that is one tensor of the latents' shape: `kept_in` says which.
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

    @property
    def steps(self) -> int:
        """Number of distinct steps seen."""
        return len(_by_step(self.events))

    @property
    def reused(self) -> int:
        """Steps of which every row was reused: all branches, samples and sites."""
        return sum(actions == {"reuse"} for actions in _by_step(self.events).values())

    @property
    def computed(self) -> int:
        """Steps of which at least one row was computed; the mixed ones are among them."""
        return self.steps - self.reused

    @property
    def mixed(self) -> int:
        """Steps of which some rows were computed and others reused."""
        return sum(len(actions) > 1 for actions in _by_step(self.events).values())

    @property
    def reuse_rate(self) -> float:
        """Share of the rows that were reused, 0..1: what saves time, whatever the branches did."""
        reused = sum(event.action == "reuse" for event in self.events)
        return reused / len(self.events) if self.events else 0.0

    @property
    def sites(self) -> dict[str, float]:
        """The share of each site's rows that were reused, 0..1, in the order in which they came."""
        rows = Counter(event.site for event in self.events)
        reused = Counter(event.site for event in self.events if event.action == "reuse")
        return {site: reused[site] / count for site, count in rows.items()}

    @property
    def kept_in(self) -> str:
        """What `hidden_bytes` is one of, in the plural."""
        return kept_in(event.site for event in self.events)

    @property
    def first_trigger(self) -> int | None:
        """k of the paper: the index of the first step of which every row was reused, or None."""
        return min((step for step, actions in _by_step(self.events).items() if actions == {"reuse"}), default=None)

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
            mixed=self.mixed,
            sites=self.sites,
            ranks=self.meta.get("ranks"),
            **self._bytes,
        )

    def row(self) -> dict[str, Any]:
        """Return the run as one flat row of a table.

        What is known of the run comes first, names of names joined by dots: ``policy`` is the policy's name and
        ``policy.threshold`` one of its fields. Then the figures of `summary`, ``seconds`` in the sites' blocks and
        ``indicator_seconds`` on the taps; both None without `timing=True`.
        """
        figures = asdict(self.summary())
        for name in ("reasons", "sites", "ranks"):  # of these "ranks" is in `meta`
            del figures[name]
        timed = {
            name: _total(getattr(event, name) for event in self.events) for name in ("seconds", "indicator_seconds")
        }
        return {**_flat(self.meta), **figures, **timed}

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
            head, *rows = [parse_json(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
            wrong = fault(head, _HEAD, _HEAD_SINCE)
            if wrong is not None or head["format"] != FORMAT:
                raise ValueError(wrong or f"format {shown(head['format'])}")
            numbers = {name: head.get(name, 0) for name in _BYTES}
            events = [_event(row, number) for number, row in enumerate(rows, start=2)]
            return cls(current_meta(head["meta"]), events, **numbers)
        except ValueError as error:
            raise TraceError(
                complaint(
                    f"{path} that cannot be read ({error})",
                    f"a file of format {FORMAT}",
                    "write it again with Trace.to_jsonl",
                )
            ) from error


def reuse_line(events: Iterable[Event]) -> str:
    """One letter per step: C computed, r reused, m mixed (branches or sites differ)."""
    letters = {frozenset({"compute"}): "C", frozenset({"reuse"}): "r"}
    return "".join(letters.get(frozenset(actions), "m") for _, actions in sorted(_by_step(events).items()))


def _by_step(events: Iterable[Event]) -> dict[int, set[str]]:
    """For each step, what was done in it."""
    actions: dict[int, set[str]] = {}
    for event in events:
        actions.setdefault(event.step, set()).add(event.action)
    return actions


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Names of names joined by dots; "name" stands for the whole."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        full = above if above and name == "name" else f"{above}.{name}".lstrip(".")
        row |= _flat(value, full) if isinstance(value, Mapping) else {full: value}
    return row


def _range(shares: list[float]) -> str:
    low, high = f"{min(shares):.1%}", f"{max(shares):.1%}"
    return low if low == high else f"{low} to {high}"


def _sites(count: int) -> str:
    return "" if count == 1 else f" ({count} sites)"


def _without_numbers(reason: str) -> str:
    """The reason's kind: what stands before its figures."""
    return reason.split(" (", 1)[0]


_WORDS = {"branch", "site", "action", "reason"}
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


_REAL = Kind("a number", lambda value: is_number(value) or (isinstance(value, float) and not math.isfinite(value)))
_REALS = Kind("a list of numbers", lambda value: isinstance(value, (list, tuple)) and all(map(_REAL.holds, value)))
_HEAD = {"format": TEXT, "meta": OBJECT, "peak_bytes": WHOLE, "hidden_bytes": WHOLE}
_HEAD_SINCE = dict.fromkeys(_BYTES[2:], WHOLE)  # which older files do not have
_ROW = {
    "run": WHOLE,
    "step": count(0, MOST_STEPS - 1),
    "total": maybe(count(0, MOST_STEPS)),
    **dict.fromkeys(("timestep", "sigma"), maybe(_REAL)),
    **dict.fromkeys(("branch", "site", "reason"), TEXT),
    "action": Kind("compute, reuse or check", lambda value: isinstance(value, str) and value in get_args(Action)),
}
_ROW_MORE = {
    **dict.fromkeys(("indicator", "seconds", "indicator_seconds", "error", "value", "evaluated_at"), maybe(_REAL)),
    "distances": maybe(_REALS),
    "sample": maybe(WHOLE),
}


def _event(row: Any, line: int) -> Event:
    if isinstance(row, dict):
        row = {name: value if name in _WORDS else _decoded(value) for name, value in row.items()}
        if isinstance(row.get("distances"), list):
            row["distances"] = tuple(map(_decoded, row["distances"]))
    check(row, _ROW, _ROW_MORE, f"line {line}")
    return Event(**row)
