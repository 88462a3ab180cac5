"""``--set NAME=VALUE``: each goes to the policy whose field it is, or to the pipeline whose call takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bwcache.core.words import shown, split
from bwcache.errors import SettingError, complaint

OPTIONS: Mapping[str, str] = {
    "prompt": "--prompt",
    "negative_prompt": "--negative-prompt",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance-scale",
    "height": "--height",
    "width": "--width",
    "num_frames": "--frames",
    "video_length": "--frames",
    "frames": "--frames",
    "generator": "--seed",
    "num_videos_per_prompt": "--seeds of sweep and bench",
    "num_images_per_prompt": "--seeds of sweep and bench",
}
"""Arguments of a pipeline's call that have an option of their own."""

POLICY, CALL = "policy.", "call."


@dataclass(frozen=True)
class Sets:
    """What the texts say, still in words.

    Attributes:
        fields: of the policy.
        arguments: of the pipeline's call.
    """

    fields: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)


def sorted_out(
    texts: Sequence[str],
    fields: Iterable[str],
    arguments: Iterable[str],
    policy: str | None,
    pipeline: str,
    former: Mapping[str, str] | None = None,
) -> Sets:
    """Return which text belongs to the policy and which to the pipeline.

    Args:
        texts: each "NAME=VALUE", "policy.NAME=VALUE" or "call.NAME=VALUE".
        fields: that the policy has.
        arguments: that a person may give to the pipeline's call.
        policy: its name; None where the command has none.
        pipeline: its name.
        former: fields of the policy under former names, and what they are called now.

    Raises:
        SettingError: a name of neither, of both, given twice, or with an option of its own.
    """
    fields, arguments, former = tuple(fields), tuple(arguments), former or {}
    found = Sets()
    for text in texts:
        name, equals, value = text.partition("=")
        prefix, name = _prefix(name.strip().replace("-", "_"))
        if not equals or not name:
            raise _refused(f"--set {shown(text)}", "NAME=VALUE", "write such as warmup=3")
        if prefix == POLICY and policy is None:
            raise _refused(
                f"--set {shown(text)}", "an argument of the pipeline: this command sets no policy", "leave it out"
            )
        if prefix == POLICY or name not in arguments:
            name = former.get(name, name)
        of_policy = prefix != CALL and name in fields
        of_call = prefix != POLICY and name in arguments and name not in OPTIONS
        if of_policy and of_call:
            both = f"--set {name}, a field of {policy} and an argument of {pipeline}"
            raise _refused(both, "one of them", f"write {POLICY}{name}= or {CALL}{name}=")
        if not of_policy and not of_call:
            raise _unknown(name, prefix, fields, arguments, policy, pipeline)
        where = found.fields if of_policy else found.arguments
        if name in where:
            raise _refused(f"--set {name} twice", "each name once", "leave one out")
        where[name] = value.strip()
    return found


def opened(text: str, what: str) -> Any | None:
    """Return the picture of "@FILE", a list of frames where it is a video, or a list of all of "@FILE,@FILE".

    None for another text.

    Raises:
        SettingError: one cannot be read.
    """
    from bwcache.measure.media import read_media

    parts = split(text)
    if not all(part.startswith("@") for part in parts):
        return None
    found = [read_media(_path(part[1:], what)) for part in parts]
    return found[0] if len(found) == 1 else found


def _path(text: str, what: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise _refused(f"{what} {shown(text)}, a home that is not known", "@FILE", "write it in full") from error


def _prefix(name: str) -> tuple[str, str]:
    found = next((prefix for prefix in (POLICY, CALL) if name.startswith(prefix)), "")
    return found, name.removeprefix(found)


def _unknown(
    name: str, prefix: str, fields: Sequence[str], arguments: Sequence[str], policy: str | None, pipeline: str
) -> SettingError:
    from bwcache.policies.known import nearest

    if prefix != POLICY and name in OPTIONS:
        return _refused(f"--set {name}", "a name without an option of its own", f"use {OPTIONS[name]}")
    possible = [*(fields if prefix != CALL else ()), *(arguments if prefix != POLICY else ())]
    free = [one for one in possible if one not in OPTIONS]
    of_policy = f"a field of {policy} ({', '.join(fields)})" if policy and prefix != CALL else ""
    of_call = f"an argument of {pipeline}" if prefix != POLICY else ""
    others = ", ".join(one for one in arguments if one not in OPTIONS)
    action = nearest(name, free) or (f"{pipeline} takes {others}" if of_call else "name one")
    return _refused(f"--set {shown(name)}", " or ".join(filter(None, (of_policy, of_call))), action)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
