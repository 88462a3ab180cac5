"""Which rows of a batch belong together: named by what they are conditioned on, never by their order.

A prompt that is switched on the way, a window of frames that moves, a ControlNet that comes or goes, LoRA weights that
change: what was kept before is not good for what comes then. All of it is in the name of a lane.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("cond", "uncond")
Key = tuple[Hashable, ...]


class Lanes:
    """The lanes of one sampling: each new combination gets a name that a person can read."""

    def __init__(self) -> None:
        self._names: dict[Key, str] = {}

    def of(self, options: Mapping[str, Any], control: Any, patcher: Any) -> tuple[str, ...]:
        """Return the name of each part of the batch, in order; none where ComfyUI does not say what it holds.

        Args:
            options: `transformer_options` of the forward.
            control: what a ControlNet made for it, or None.
            patcher: of the model that runs.
        """
        kinds, ids = options.get("cond_or_uncond"), options.get("uuids")
        if not kinds or not ids or len(kinds) != len(ids):
            return ()
        common = (_window(options), _control(control), _weights(patcher), _replaced(options))
        names = tuple(self._named((kind, str(one), *common)) for kind, one in zip(kinds, ids, strict=True))
        return names if len(set(names)) == len(names) else ()

    def _named(self, key: Key) -> str:
        if key not in self._names:
            kind = KINDS[int(str(key[0]))] if str(key[0]) in "01" else f"branch {key[0]}"
            known = sum(name == kind or name.startswith(f"{kind} ") for name in self._names.values())
            self._names[key] = kind if known == 0 else f"{kind} {known + 1}"
        return self._names[key]


PREFETCH = "prefetch_dynamic_vbars"
"""With it set, newer ComfyUI loads the weights of each block while the one before runs."""


class Options(dict[str, Any]):
    """`transformer_options` that stay right when a forward runs on some rows of its batch, or without its blocks."""

    def without_blocks(self) -> Options:
        """Return the options of a forward in which no block runs: their weights are not loaded."""
        return Options({**self, PREFETCH: False}) if self.get(PREFETCH) else self

    def of_rows(self, rows: Sequence[int], count: int) -> Options:
        """Return the options of these of so many rows: which parts of the batch there are is said anew."""
        parts = len(self["uuids"])
        each = count // parts
        kept = sorted({row // each for row in rows})
        lists = {name: [self[name][part] for part in kept] for name in ("uuids", "cond_or_uncond")}
        return Options({**self, **lists})


@dataclass(frozen=True, eq=False)
class _Itself:
    """A thing that is the same as itself alone. It is held, so that no other one comes to its place in memory."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _window(options: Mapping[str, Any]) -> Hashable:
    """The frames of a context window."""
    found = options.get("context_window")
    return None if found is None else (tuple(getattr(found, "index_list", ()) or ()) or _Itself(found))


def _control(control: Any) -> Hashable:
    """Which parts a ControlNet gives something to."""
    if not isinstance(control, Mapping):
        return control is not None
    return tuple(sorted(str(name) for name, value in control.items() if value))


def _weights(patcher: Any) -> Hashable:
    """The LoRA weights that hooks put in, each with its strength at present."""
    group = getattr(patcher, "current_hooks", None)
    hooks = getattr(group, "hooks", ()) or ()
    return tuple((_Itself(getattr(hook, "hook_ref", hook)), float(getattr(hook, "strength", 1.0))) for hook in hooks)


def _replaced(options: Mapping[str, Any]) -> Hashable:
    """Which blocks others put something in the place of, or behind."""
    replaced = options.get("patches_replace") or {}
    inside = tuple(sorted(f"{kind} {name}" for kind, own in replaced.items() for name in own))
    return inside, tuple(sorted(f"{name} {len(own)}" for name, own in (options.get("patches") or {}).items()))
