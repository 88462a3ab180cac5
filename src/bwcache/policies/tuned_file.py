"""The file that `bwcache tune` writes: a policy, what it was made for, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from bwcache.core.files import named_without_suffix, read_json
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.models.weights import WeightSample
from bwcache.policies.known import SUFFIX, policy
from bwcache.policies.tuned import Tuned

KIND = "bwcache-tuned"
FORMAT = f"{KIND}-1"
_AGAIN = "make one: bwcache tune --model … --out tuned.json"


@dataclass(frozen=True)
class TunedFile:
    """What such a file holds.

    Attributes:
        policy: ready to attach.
        made_for: model, weights, scheduler and its settings, steps, guidance and sizes.
        quality: what was measured on videos that nothing was chosen on.
        speed: what is to be expected.
    """

    policy: Tuned
    made_for: Mapping[str, Any]
    quality: Mapping[str, Any]
    speed: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `read_tuned` reads them again."""
        content = {name: dict(getattr(self, name)) for name in ("made_for", "quality", "speed")}
        return {"format": FORMAT, "policy": self.policy.describe(), **content}


def names_file(text: object) -> TypeGuard[str | Path]:
    """Return whether what is given in place of a policy is a path to such a file."""
    return isinstance(text, Path) or (isinstance(text, str) and text.lower().endswith(SUFFIX))


def read_tuned(path: str | Path) -> TunedFile:
    """Return what a file holds.

    Raises:
        SettingError: it cannot be read, or is none of `bwcache tune`.
    """
    name = shown(str(path))
    try:
        content = read_json(Path(path).expanduser())
    except (OSError, RuntimeError) as error:
        found = f"a tuned file {name} that cannot be read ({getattr(error, 'strerror', None) or error})"
        meant = named_without_suffix(str(path), SUFFIX)
        action = f"{meant} is there: name it so" if meant else "check the path, or " + _AGAIN
        raise _refused(found, "one that bwcache tune wrote", action) from error
    except ValueError as error:
        found = f"a tuned file {name} that is damaged ({' '.join(str(error).split())})"
        raise _refused(found, "the JSON that bwcache tune wrote", _AGAIN) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        says = shown(content.get("format")) if isinstance(content, dict) else type(content).__name__
        raise _refused(f"format {says} in {name}", f"'{FORMAT}', as bwcache tune writes it", _AGAIN)
    parts = [part for part in map(content.get, ("made_for", "quality", "speed")) if isinstance(part, dict)]
    if len(parts) < 3:
        raise _refused(f"parts that are missing in {name}", "made_for, quality and speed", _AGAIN)
    _expect_what_is_compared(parts[0], name)
    try:
        found_policy = policy(content.get("policy", {}))
    except SettingError as error:
        raise SettingError(f"in {name}: {error}") from error
    if not isinstance(found_policy, Tuned):
        raise _refused(f"policy {type(found_policy).__name__} in {name}", "Tuned", "attach that policy itself")
    return TunedFile(found_policy, *parts)


def _expect_what_is_compared(made_for: Mapping[str, Any], name: str) -> None:
    """What a file is held against when it is attached may be missing, but it must not be something unreadable."""
    for part in ("architecture", "scheduler", "weight_sample"):
        value = made_for.get(part)
        if value is not None and not isinstance(value, dict):
            raise _refused(f"{part} {shown(value)} in made_for of {name}", "an object, or null", _AGAIN)
    predicts = (made_for.get("scheduler") or {}).get("predicts")
    if predicts is not None and not isinstance(predicts, str):
        raise _refused(f"predicts {shown(predicts)} in made_for of {name}", "a text such as 'flow', or null", _AGAIN)
    sample = made_for.get("weight_sample")
    if sample is not None and WeightSample.from_json(sample) is None:
        expected = "a digest and a list of dtypes, or null"
        raise _refused(f"weight_sample {shown(sample)} in made_for of {name}", expected, _AGAIN)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
