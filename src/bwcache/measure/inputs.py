"""What a pipeline's call takes and needs: known from its signature, and asked of its own check, without weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from bwcache.core import words
from bwcache.errors import SettingError, complaint

NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "cond_image", "ref_image", "images", "input_images"),
    "video": ("video",),
    "control": ("control_video", "control_image", "conditioning_frames", "pose_video", "controls"),
}
"""Kind of input -> what pipelines call it, the first that one takes is meant."""

STEERED = ("controlnet_conditioning_scale", "adapter_conditioning_scale")
"""Pipelines that take one of these and no control by name: there, `image` is the control."""

NEEDED = (
    (
        re.compile(r"ImageToVideo|Image2Video|I2VPipeline|I2IPipeline|Img2Img|Inpaint|(?<!Joy)ImageEditP|I2VGenXL"),
        "image",
    ),
    (re.compile(r"VideoToVideo"), "video"),
    (re.compile(r"Control(?!NetXS)"), "control"),
)
"""What pipelines of such names cannot do without, though their signatures have a default for it."""

OWN = ("output_type", "return_dict", "generator", "num_videos_per_prompt", "num_images_per_prompt", "timesteps")
"""Arguments that a measurement gives itself, or that would make other than one video per call."""

_SEEN = re.compile(r"^(?!.*(latents|embeds|attention_mask)).*(image|video|mask|frames)")
"""Arguments that are pictures, whatever their annotations say."""


def parameters(kind: type[Any]) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a pipeline's call by name."""
    taken = dict(inspect.signature(kind.__call__).parameters)
    return {
        name: one
        for name, one in taken.items()
        if name != "self" and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }


def settable(kind: type[Any]) -> tuple[str, ...]:
    """Return the arguments that a person may give in words or as files: no callbacks, no tensors, and none of `OWN`."""
    hints = words.hints_of(kind.__call__)
    return tuple(
        name
        for name in parameters(kind)
        if name not in OWN
        and not name.startswith("callback")
        and (words.writable(hints.get(name, Any)) or _SEEN.search(name))
    )


def argument_for(kind: type[Any], what: str) -> str | None:
    """Return what a call names an input of this kind ("image", "video", "control"); None where it takes none."""
    taken = parameters(kind)
    found = next((name for name in NAMES[what] if name in taken), None)
    steered = any(name in taken for name in STEERED) and not any(name in taken for name in NAMES["control"])
    if steered and what in ("image", "control") and "image" in taken:
        return "image" if what == "control" or "Img2Img" in kind.__name__ else None
    return found


def value_of(kind: type[Any], name: str, text: str) -> Any:
    """Return an argument's value from words, as the signature's annotation wants it.

    Raises:
        SettingError: it does not fit.
    """
    hint = words.hints_of(kind.__call__).get(name, Any)
    return words.read(text, hint, f"{name} of {kind.__name__}")


def check_needed(kind: type[Any], given: Mapping[str, Any]) -> None:
    """Raise where a pipeline's call lacks an input that it cannot do without.

    Raises:
        SettingError: with the option that gives it.
    """
    required = [name for name, one in parameters(kind).items() if one.default is one.empty]
    options = {argument_for(kind, what): f"--{what} FILE" for what in NAMES}
    by_name = [argument_for(kind, what) for pattern, what in NEEDED if pattern.search(kind.__name__)]
    for name in [*required, *(name for name in by_name if name)]:
        if name not in given and name != "prompt":
            found = f"no {name} for {kind.__name__}"
            raise SettingError(complaint(found, f"one: it needs {name}", f"add {options.get(name, f'--set {name}=…')}"))


def check_inputs(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Raise where a pipeline's own check refuses what it is given.

    Args:
        pipe: a pipeline, with or without weights.
        arguments: of its call, without those that are left to its defaults.

    Raises:
        SettingError: with what it says.
    """
    answer = answered(pipe, arguments)
    given = [name for name, value in arguments.items() if value is not None and name != "prompt"]
    if answer is not None and re.search("|".join(["resolution", "frames", *map(re.escape, given)]), answer):
        found = f"arguments that {type(pipe).__name__} refuses ({' '.join(answer.split())})"
        raise SettingError(complaint(found, "such as it takes", "change them"))


def answered(pipe: Any, arguments: Mapping[str, Any]) -> str | None:
    """Return what the pipeline's own check says; None when it is content, has none, or needs to know more.

    Whatever the check wants and is not given is as the call has it by default, or else None.
    """
    check = getattr(pipe, "check_inputs", None)
    names = inspect.signature(check).parameters if check is not None else {}
    if check is None or not {"prompt", "height", "width"} <= set(names):
        return None
    call = parameters(type(pipe))
    values = {
        name: arguments.get(name, call[name].default if name in call and one.default is one.empty else one.default)
        for name, one in names.items()
        if one.kind is one.POSITIONAL_OR_KEYWORD
    }
    known = {name: None if value is inspect.Parameter.empty else value for name, value in values.items()}
    try:
        check(**known)
    except ValueError as error:
        return str(error)
    except Exception:  # a check that needs more than this cannot be asked beforehand
        return None
    return None
