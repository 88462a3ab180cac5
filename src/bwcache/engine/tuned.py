"""A file of `bwcache tune` in place of a policy: read, and held against what it is to be attached to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bwcache.engine.clock.level import predicted_by
from bwcache.errors import SettingError, complaint
from bwcache.models import denoisers
from bwcache.policies.tuned import Tuned
from bwcache.policies.tuned_file import TunedFile, read_tuned


def tuned_for(target: Any, path: str | Path) -> Tuned:
    """Return the policy of a file.

    Args:
        target: a pipeline, or the denoiser alone.
        path: of the file.

    Raises:
        SettingError: it cannot be read, or was made for another model or another kind of scheduler.
    """
    found = read_tuned(path)
    expect_fits(target, found)
    return found.policy


def expect_fits(target: Any, file: TunedFile) -> None:
    """Raises `SettingError` where a file was made for another model, or for another kind of scheduler.

    Another schedule of the same kind is none of these: the plan goes over to it, and the trace says so.
    """
    classes = {type(module).__name__ for module in denoisers(target).values()}
    if file.policy.model and classes and file.policy.model not in classes:
        found = f"{' and '.join(sorted(classes))} under a file tuned for {file.policy.model}"
        raise SettingError(complaint(found, file.policy.model, "tune this model too: bwcache tune --model …"))
    scheduler = getattr(target, "scheduler", None)
    made_for = file.made_for.get("scheduler")
    wanted = made_for.get("predicts") if isinstance(made_for, dict) else None
    if scheduler is None or wanted is None or predicted_by(scheduler) == wanted:
        return
    found = f"{type(scheduler).__name__} (predicts: {predicted_by(scheduler) or 'not known'}) under a tuned file"
    raise SettingError(complaint(found, f"one that predicts {wanted}", "tune with this scheduler: --scheduler …"))
