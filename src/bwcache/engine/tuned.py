"""A file of `bwcache tune` in place of a policy: read, and held against what it is to be attached to.

Refused: another class of denoiser, another architecture of the class, a scheduler that predicts something else. Warned
of: other weights of the same architecture. A fine-tune moves through the noise much as its base does, so the plan is a
fair guess for it, but what the file promises was measured on the other. Another schedule of the same kind is neither:
the plan goes over to it by noise level, and the trace says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bwcache.core.words import shown
from bwcache.engine.clock.level import predicted_by
from bwcache.errors import OtherWeightsWarning, SettingError, complaint, warn
from bwcache.models import denoisers
from bwcache.models.weights import WeightSample, architecture, weight_sample
from bwcache.policies.tuned import Tuned
from bwcache.policies.tuned_file import TunedFile, read_tuned


def tuned_for(target: Any, path: str | Path) -> Tuned:
    """Return the policy of a file; warns where it was made for other weights (`OtherWeightsWarning`).

    Args:
        target: a pipeline, or the denoiser alone.
        path: of the file.

    Raises:
        SettingError: it cannot be read, or was made for another model or another kind of scheduler.
    """
    found = read_tuned(path)
    expect_fits(target, found)
    other = other_weights(target, found)
    if other is not None:
        warn(f"{shown(Path(path).name)}: {other}", OtherWeightsWarning)
    return found.policy


def expect_fits(target: Any, file: TunedFile) -> None:
    """Raises `SettingError` where a file was made for another model, or for another kind of scheduler."""
    modules = denoisers(target)
    classes = {type(module).__name__ for module in modules.values()}
    again = "tune this model too: bwcache tune --model …"
    if file.policy.model and classes and file.policy.model not in classes:
        found = f"{' and '.join(sorted(classes))} under a file tuned for {file.policy.model}"
        raise SettingError(complaint(found, file.policy.model, again))
    known = file.made_for.get("architecture")
    there = known if isinstance(known, dict) else {}
    here = next((architecture(one) for one in modules.values() if type(one).__name__ == file.policy.model), {})
    for name in sorted(here.keys() & there.keys()):
        if here[name] != there[name]:
            found = f"another {file.policy.model} ({name} {shown(here[name])}) under a tuned file"
            raise SettingError(complaint(found, f"the one that it was made for ({shown(there[name])})", again))
    scheduler = getattr(target, "scheduler", None)
    made_for = file.made_for.get("scheduler")
    wanted = made_for.get("predicts") if isinstance(made_for, dict) else None
    if scheduler is None or wanted is None or predicted_by(scheduler) == wanted:
        return
    found = f"{type(scheduler).__name__} (predicts: {predicted_by(scheduler) or 'not known'}) under a tuned file"
    raise SettingError(complaint(found, f"one that predicts {wanted}", "tune with this scheduler: --scheduler …"))


def other_weights(target: Any, file: TunedFile) -> str | None:
    """Return what to say where a file was made for other weights; None where it was not, or that cannot be told."""
    there = WeightSample.from_json(file.made_for.get("weight_sample"))
    if there is None:
        return None
    for module in denoisers(target).values():
        here = weight_sample(module) if type(module).__name__ == file.policy.model else None
        if here is not None and here.same_as(there) is False:
            found = f"other weights of {file.policy.model} than it was tuned for (a fine-tune, or an adapter)"
            expected = f"those of {shown(str(file.made_for.get('model')))}"
            return complaint(found, expected, "look whether its quality holds, or tune for these")
    return None
