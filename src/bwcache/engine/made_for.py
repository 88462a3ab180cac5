"""A file in place of a policy: read, and held against what it is to be attached to.

Refused: another class of denoiser, another architecture of the class, a scheduler that predicts something else. Warned
of: other weights of the same architecture. A fine-tune moves through the noise much as its base does, so what was found
is a fair guess for it, but what the file promises was measured on the other.

Another schedule of the same kind is refused where the method says that its table is of one. Else it is neither: a plan
that was tuned goes over to it by noise level, and the trace says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bwcache.core.words import shown
from bwcache.engine.clock.level import predicted_by
from bwcache.errors import OtherWeightsWarning, SettingError, complaint, warn
from bwcache.models import denoisers
from bwcache.models.weights import WeightSample, architecture, weight_sample
from bwcache.policies import Policy
from bwcache.policies.calibrated_file import read_policy_file
from bwcache.policies.policy_file import PolicyFile


def file_policy(target: Any, path: str | Path) -> Policy[Any]:
    """Return the policy of a file; warns where it was made for other weights (`OtherWeightsWarning`).

    Args:
        target: a pipeline, or the denoiser alone.
        path: of the file.

    Raises:
        SettingError: it cannot be read, or was made for another model or another kind of scheduler.
    """
    found = read_policy_file(path)
    expect_fits(target, found)
    other = other_weights(target, found)
    if other is not None:
        warn(f"{shown(Path(path).name)}: {other}", OtherWeightsWarning)
    return found.policy


def expect_fits(target: Any, file: PolicyFile) -> None:
    """Raises `SettingError` for another model than a file was made for, or a scheduler that it is of no use with."""
    modules = denoisers(target)
    classes = {type(module).__name__ for module in modules.values()}
    if file.denoiser and classes and file.denoiser not in classes:
        found = f"{' and '.join(sorted(classes))} under a file {file.WORD} for {_named(file.denoiser)}"
        raise SettingError(complaint(found, _named(file.denoiser), file.again))
    known = file.made_for.get("architecture")
    there = known if isinstance(known, dict) else {}
    here = next((architecture(one) for one in modules.values() if type(one).__name__ == file.denoiser), {})
    for name in sorted(here.keys() & there.keys()):
        if here[name] != there[name]:
            found = f"another {file.denoiser} ({name} {shown(here[name])}) under a {file.WORD} file"
            raise SettingError(complaint(found, f"the one that it was made for ({shown(there[name])})", file.again))
    if getattr(target, "scheduler", None) is not None:
        _expect_scheduler(target.scheduler, file)


def _expect_scheduler(scheduler: Any, file: PolicyFile) -> None:
    made_for = file.made_for.get("scheduler") or {}
    wanted, kind = made_for.get("predicts"), type(scheduler).__name__
    if wanted is not None and predicted_by(scheduler) != wanted:
        found = f"{kind} (predicts: {predicted_by(scheduler) or 'not known'}) under a {file.WORD} file"
        action = f"{file.MADE_BY} with this scheduler: --scheduler …"
        raise SettingError(complaint(found, f"one that predicts {_named(wanted)}", action))
    if not file.is_of_a_schedule:
        return
    there, here = made_for.get("settings") or {}, scheduler_settings(scheduler)
    if made_for.get("class") not in (None, kind):
        found = f"{kind} under a file {file.WORD} for {_named(made_for['class'])}"
        raise SettingError(complaint(found, _named(made_for["class"]), file.again))
    for name in sorted(here.keys() & there.keys()):
        if here[name] != there[name]:
            found = f"{kind} with {name} {here[name]} under a file {file.WORD} for {name} {_named(there[name])}"
            raise SettingError(complaint(found, "the same schedule", file.again))


def scheduler_settings(scheduler: Any) -> dict[str, Any]:
    """Return a scheduler's settings as plain values: another shift makes other videos, also one set afterwards."""
    settings = dict(getattr(scheduler, "config", {}))
    if hasattr(type(scheduler), "shift"):  # of an instance it would be looked up in the settings, with a warning
        settings["shift"] = scheduler.shift
    plain = (str, int, bool, type(None))
    return {
        name: value if isinstance(value, plain) else repr(value)
        for name, value in settings.items()
        if not name.startswith("_")
    }


def other_weights(target: Any, file: PolicyFile) -> str | None:
    """Return what to say where a file was made for other weights; None where it was not, or that cannot be told."""
    there = WeightSample.from_json(file.made_for.get("weight_sample"))
    if there is None:
        return None
    for module in denoisers(target).values():
        here = weight_sample(module) if type(module).__name__ == file.denoiser else None
        if here is not None and here.same_as(there) is False:
            found = f"other weights of {file.denoiser} than it was {file.WORD} for (a fine-tune, or an adapter)"
            expected = f"those of {shown(str(file.made_for.get('model')))}"
            return complaint(found, expected, f"look whether its quality holds, or use {file.MADE_BY} on these")
    return None


def _named(value: Any) -> str:
    """A name or setting out of a file: on one line, and no longer than a complaint can be."""
    return shown(value).strip("'\"")
