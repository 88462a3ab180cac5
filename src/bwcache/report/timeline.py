"""Which steps were reused, and why, in words."""

from __future__ import annotations

from collections.abc import Iterable

from bwcache.core.trace import Event, Trace, reuse_line

LETTERS = {"C": "computed", "r": "reused", "m": "computed in one branch, reused in another"}


def timeline(trace: Trace) -> str:
    """One letter per step, as in ``CCCCCrrrCrrrCCC``."""
    return reuse_line(trace.events)


def legend(lines: Iterable[str]) -> str:
    """What the letters in these timelines mean."""
    seen = set("".join(lines))
    return ", ".join(f"{letter} {meaning}" for letter, meaning in LETTERS.items() if letter in seen)


def reasons(trace: Trace) -> list[str]:
    """One line per kind of reason: what happened, at which steps.

    Example:
        ``computed because still changing: steps 1-6, 9``
    """
    steps: dict[tuple[str, str], list[int]] = {}
    for event in trace.events:
        seen = steps.setdefault((event.action, reason_kind(event)), [])
        if event.step not in seen:
            seen.append(event.step)
    words = {"compute": "computed", "reuse": "reused"}
    return [
        f"{words[action]}: {kind}, {'step' if len(where) == 1 else 'steps'} {spans(where)}"
        for (action, kind), where in sorted(steps.items(), key=lambda item: item[1][0])
    ]


def reason_kind(event: Event) -> str:
    """What stands before the figures of a reason."""
    return event.reason.split(" (", 1)[0]


def spans(steps: Iterable[int]) -> str:
    """Step numbers with runs of them drawn together: ``0-3, 7, 9-10``."""
    runs: list[list[int]] = []
    for step in sorted(steps):
        if runs and step == runs[-1][-1] + 1:
            runs[-1][1:] = [step]
        else:
            runs.append([step])
    return ", ".join("-".join(map(str, run)) for run in runs)
