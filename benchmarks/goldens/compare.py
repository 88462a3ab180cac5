"""What differs between two files of goldens: for each case the first thing that does, in one line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

FIELDS = ("site", "action", "reason", "indicator", "distances", "error")


def differences(old: dict[str, Any], new: dict[str, Any], but: Collection[str] = ()) -> Iterator[str]:
    """One line for each case of the old goldens that is not the same in the new ones.

    Args:
        old, new: cases by name.
        but: fields of a trace's rows that may differ.
    """
    for name, case in old.items():
        found = "not recorded" if name not in new else difference(case, new[name], but)
        if found:
            yield f"{name}: {found}"


def difference(old: dict[str, Any], new: dict[str, Any], but: Collection[str] = ()) -> str | None:
    """The first thing that differs in a case, decisions before outputs; None where nothing does."""
    if "raised" in old or "raised" in new:
        was, now = old.get("raised", "went through"), new.get("raised", "goes through")
        return None if was == now else f"{now}, was: {was}"
    if len(old["traces"]) != len(new["traces"]):
        return f"{len(new['traces'])} runs, were {len(old['traces'])}"
    for run, (before, after) in enumerate(zip(old["traces"], new["traces"], strict=True)):
        found = _in_rows(before, after, but)
        if found:
            return f"run {run}, {found}{_outputs(old, new, ', and ')}"
    return _outputs(old, new) or None


def _in_rows(before: list[dict[str, Any]], after: list[dict[str, Any]], but: Collection[str]) -> str | None:
    for row, (old, new) in enumerate(zip(before, after, strict=False)):
        was, now = _place(old), _place(new)
        if was != now:
            return f"row {row}: {now}, was {was}"
        for field in FIELDS:
            if field not in but and old.get(field) != new.get(field):
                return f"row {row} ({now}): {field} {_shown(new.get(field))}, was {_shown(old.get(field))}"
    return f"{len(after)} rows, were {len(before)}" if len(before) != len(after) else None


def _place(row: dict[str, Any]) -> str:
    sample = f", sample {row['sample']}" if "sample" in row else ""
    return f"step {row['step']}, {row['branch']}{sample}"


def _shown(value: Any) -> str:
    """Exact floats as a person reads them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{float.fromhex(value)!r}" if isinstance(value, str) and "0x" in value else repr(value)


def _outputs(old: dict[str, Any], new: dict[str, Any], before: str = "") -> str:
    """From where on what came out differs; empty where it does not."""
    was, now = old["outputs"], new["outputs"]
    if was == now:
        return ""
    if len(was) != len(now):
        return f"{before}{len(now)} outputs, were {len(was)}"
    first = next(i for i, (a, b) in enumerate(zip(was, now, strict=True)) if a != b)
    count = sum(a != b for a, b in zip(was, now, strict=True))
    return f"{before}outputs differ: {count} of {len(was)}, the first is number {first}"
