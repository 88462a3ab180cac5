"""A scheduler in the place of a pipeline's own, for the same equation."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

from bwcache.core import words
from bwcache.errors import SettingError, complaint


def is_flow(scheduler: Any) -> bool:
    """Return whether it goes along straight lines from noise to data: sigma 0..1, data weighted 1 - sigma."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def flow_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return shift and schedule of flow matching under all the names that schedulers have for them."""
    shift = settings.get("flow_shift", settings.get("shift", 1.0))
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift, "shift": shift}
    return {**settings, **flow}


def named_scheduler(text: str) -> tuple[type[Any], dict[str, Any]]:
    """Return the class and the settings that a text names; costs no model.

    Args:
        text: such as "UniPCMultistep", "unipc-multistep:solver_order=3" or "FlowMatchEulerDiscreteScheduler:shift=5".

    Raises:
        SettingError: there is no such scheduler, it has no such setting, or a value does not fit.
    """
    called = words.called(text)
    if called is None or called[1]:
        raise _refused(f"scheduler {words.shown(text)}", "NAME or NAME:KEY=VALUE,...", "write such as DDIM:eta=0.5")
    name, _, given = called
    kinds = _kinds()
    kind = kinds.get(_short(name))
    if kind is None:
        begun = [one for one in kinds if one.startswith(_short(name))]
        near = begun[:3] or difflib.get_close_matches(_short(name), kinds, 3)
        names = " or ".join(kinds[one].removesuffix("Scheduler") for one in near)
        action = f"did you mean {names}?" if near else "name one, such as UniPCMultistep or DDIM"
        raise _refused(f"scheduler {words.shown(name)}", "a scheduler of diffusers", action)
    made = _import(kind)
    taken = {key for key in inspect.signature(made.__init__).parameters if key != "self"}
    hints = words.hints_of(made.__init__)
    for key in given:
        if key not in taken:
            near = difflib.get_close_matches(key, taken, 2)
            action = f"did you mean {' or '.join(near)}?" if near else "leave it out"
            raise _refused(f"{key} of {made.__name__}", f"its settings ({', '.join(sorted(taken))})", action)
    return made, {key: words.read(value, hints.get(key, Any), f"{key} of {name}") for key, value in given.items()}


def replaced(own: Any, kind: type[Any], given: Mapping[str, Any]) -> Any:
    """Return a scheduler of this class for what a pipeline's own one solves.

    Args:
        own: the pipeline's scheduler; it is not changed.
        kind: the other one's class.
        given: its settings; all others are the own one's, where both have them.

    Raises:
        SettingError: one does flow matching and the other does not, or the settings cannot be.
    """
    taken = inspect.signature(kind.__init__).parameters
    settings = {name: value for name, value in dict(own.config).items() if not name.startswith("_")}
    flow, flows = is_flow(own), kind.__name__.startswith("FlowM") or "use_flow_sigmas" in taken
    if flow and not flows:
        found = f"scheduler {kind.__name__}, which does no flow matching as {type(own).__name__} does"
        raise _refused(found, "one that does", "try FlowMatchEulerDiscrete, UniPCMultistep or DPMSolverMultistep")
    if not flow and kind.__name__.startswith("FlowM"):
        found = f"scheduler {kind.__name__}, which does flow matching, and {type(own).__name__} does not"
        raise _refused(found, "one for a schedule of noise", "try DDIM, UniPCMultistep or DPMSolverMultistep")
    wanted = {**(flow_settings(settings) if flow else settings), **given}
    try:
        return kind(**{name: value for name, value in wanted.items() if name in taken})
    except Exception as error:  # whatever a constructor does not like
        found = f"settings that {kind.__name__} refuses ({' '.join(str(error).split())})"
        raise _refused(found, "such as it takes", "change them") from error


def check_schedule(pipe: Any, steps: int, given: Mapping[str, Any] | None = None) -> None:
    """Raise where a pipeline's scheduler cannot be set to this number of steps, or not in the way the pipeline asks.

    Args:
        pipe: a pipeline, with or without weights.
        steps: of the run.
        given: further arguments of its call.

    Raises:
        SettingError: with what the scheduler says.
    """
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None or not hasattr(scheduler, "set_timesteps"):
        return
    taken = inspect.signature(scheduler.set_timesteps).parameters
    kind = type(scheduler).__name__
    if "sigmas" not in taken and ("sigmas" in (given or {}) or _makes_sigmas(pipe)):
        found = f"scheduler {kind}, which takes no sigmas"
        raise _refused(found, f"one that does, since {type(pipe).__name__} gives them", "name another one")
    if "num_inference_steps" not in taken:
        return
    trial = copy.deepcopy(scheduler)
    shifting = {"mu": 1.0} if "mu" in taken and trial.config.get("use_dynamic_shifting") else {}
    try:
        trial.set_timesteps(num_inference_steps=steps, **shifting)
    except ValueError as error:
        found = f"{steps} steps that {kind} refuses ({' '.join(str(error).split())})"
        raise _refused(found, "such as it can make", "choose fewer, or another --scheduler") from error
    except Exception:  # one that wants to be told more than a number of steps is asked by its pipeline alone
        return


def _makes_sigmas(pipe: Any) -> bool:
    """Whether a pipeline gives its scheduler sigmas of its own."""
    try:
        source = inspect.getsource(type(pipe).__call__)
    except (OSError, TypeError):
        return False
    return re.search(r"\bsigmas = [^\n]*linspace", source) is not None


def _kinds() -> dict[str, str]:
    """Short name -> class name of all schedulers of diffusers."""
    from diffusers import schedulers

    names = [name for name in dir(schedulers) if name.endswith("Scheduler") and not name.startswith("Flax")]
    return {_short(name): name for name in names}


def _import(name: str) -> type[Any]:
    """The class; raises `SettingError` where a package is missing that it needs."""
    from diffusers import schedulers

    try:
        found: type[Any] = getattr(schedulers, name)
        if getattr(found, "_backends", None):  # what diffusers puts in the place of a class that it cannot import
            raise ImportError(f"it needs {', '.join(found._backends)}")
    except Exception as error:
        found_ = f"scheduler {name} that cannot be imported ({' '.join(str(error).split())[:120]})"
        raise _refused(found_, "one that needs nothing else", "install what it needs, or name another one") from error
    return found


def _short(name: str) -> str:
    return words.plain_name(name).removesuffix("scheduler")


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
