"""What was published for a checkpoint, beside the rule that it belongs to: `PUBLISHED` in a policy's own file."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bwcache.core.words import plain_name, shown
from bwcache.errors import SettingError, complaint

CODE, PAPER = "the authors' code", "the paper"
"""Where most of it stands."""


@dataclass(frozen=True)
class Published:
    """The settings of one checkpoint, or of one way to run it.

    Attributes:
        settings: values by the names of the policy's fields; what is not named was not published, or means something
            else there.
        source: where they stand, and what is to be known of them.
        calibrates: whether they are of a calibration instead: what `bwcache calibrate --set` takes.
    """

    settings: Mapping[str, Any] = field(hash=False)
    source: str = CODE
    calibrates: bool = False


def published_of(kind: type) -> Mapping[str, Published]:
    """Return by checkpoint what was published for a policy; empty where nothing is known."""
    found = getattr(sys.modules[kind.__module__], "PUBLISHED", {})
    return {name: one for name, one in found.items() if isinstance(one, Published)}


def settings_for(kind: type, checkpoint: str) -> dict[str, Any]:
    """Return the fields that were published for a checkpoint, by its name in capitals or not.

    Raises:
        SettingError: nothing is known of that name, or it says how to calibrate and not how to run.
    """
    rows = published_of(kind)
    wanted = plain_name(str(checkpoint))
    found = next((one for name, one in rows.items() if plain_name(name) == wanted), None)
    if found is None:
        what = f"nothing published of {kind.__name__} for {shown(checkpoint)}"
        near = difflib.get_close_matches(wanted, {plain_name(name): name for name in rows}, 1, 0.5)
        name = next((name for name in rows if near and plain_name(name) == near[0]), None)
        action = f"did you mean {name}?" if name else "name one of them" if rows else "say its settings themselves"
        raise SettingError(complaint(what, f"one of {', '.join(rows)}" if rows else "a method with such", action))
    if found.calibrates:
        said = " ".join(f"--set {name}={value}" for name, value in found.settings.items())
        again = f"calibrate with them: bwcache calibrate {kind.__name__} {said} --model …"
        raise SettingError(complaint(f"settings of a calibration for {shown(checkpoint)}", "fields of a policy", again))
    return dict(found.settings)


def names_published(kind: type, field: str) -> bool:
    """Return whether a setting of this name stands for all that was published for a checkpoint."""
    return field == "published" and field not in getattr(kind, "__dataclass_fields__", {}) and bool(published_of(kind))
