"""What a row of a prompt file asks for: the options of the command, with those of the row in their place.

A row is checked as the options of one video are. What many rows have in common is checked once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwcache.cli.choices import (
    SHORTHANDS,
    Choices,
    check_fits,
    check_range,
    check_ranges,
    chosen,
    policy_kind,
    sort_sets,
)
from bwcache.cli.prompts import check_text
from bwcache.cli.sets import CALL, POLICY
from bwcache.cli.settings import GenerateSettings
from bwcache.core.words import read_or_fit, shown, split
from bwcache.errors import SettingError, complaint
from bwcache.fleet.prompt_file import Line
from bwcache.policies.policy_file import SUFFIX, names_file
from bwcache.policies.table_file import ARRAYS

NUMBERS: Mapping[str, type] = dict.fromkeys(("steps", "height", "width", "frames"), int)
FILES = ("image", "video", "control")
OWN = ("prompt", "negative_prompt", "seed", "guidance_scale", *FILES)
"""Columns in which every row may be another, and yet is known to work: nothing else depends on them."""
MOST_PLANS = 512
"""So many kinds of rows are remembered."""


@dataclass(frozen=True)
class Plan:
    """What all rows of a kind have in common.

    Attributes:
        settings: the command's, with what the rows say.
        choices: what they amount to.
        parts: all that their videos depend on, beside the model and the columns in `OWN`.
    """

    settings: GenerateSettings
    choices: Choices
    parts: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a row asks for: its plan, and what it has in the columns in `OWN`."""

    plan: Plan
    own: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The text; "" where the pipeline takes none."""
        return str(self.own.get("prompt", ""))

    @property
    def settings(self) -> GenerateSettings:
        """The command's settings with all that the row says."""
        return dataclasses.replace(self.plan.settings, **(dict(self.own) | {"prompt": [self.prompt]}))

    @property
    def parts(self) -> dict[str, Any]:
        """All that the video depends on, beside the model, ready for JSON. Files count by place, size and time.

        Raises:
            SettingError: a file is no longer there.
        """
        settings = self.plan.settings
        own = {name: self.own.get(name, getattr(settings, name)) for name in OWN if name != "prompt"}
        files = {name: own[name] and _state(own[name]) for name in FILES}
        if own["guidance_scale"] is None:
            own["guidance_scale"] = self.plan.choices.guidance_scale
        return self.plan.parts | own | files | {"prompt": self.prompt}


class Rows:
    """Reads rows for one model.

    Args:
        settings: of the command, which each row begins with.
        kind: the pipeline's class.
        device: on which it is.
        pipe: the pipeline, with or without weights; its scheduler is replaced where the settings name another. None:
            what a row asks of it is not checked.
        folder: which the paths in rows start from.
    """

    def __init__(self, settings: GenerateSettings, kind: type[Any], device: str, pipe: Any, folder: Path) -> None:
        from bwcache.measure.inputs import parameters
        from bwcache.measure.schedulers import named_scheduler, replaced

        self._settings = dataclasses.replace(settings, prompts=None)
        self._kind, self._device, self._pipe, self._folder = kind, device, pipe, folder
        if pipe is not None and settings.scheduler is not None:
            pipe.scheduler = replaced(pipe.scheduler, *named_scheduler(settings.scheduler))
        self._takes_prompt = "prompt" in parameters(kind)
        self._of_call = tuple(
            f"{CALL}{name}={text}" for name, text in sort_sets(settings, policy_kind(settings), kind).arguments.items()
        )
        self._plans: dict[str, Plan] = {}

    def read(self, line: Line) -> Asked:
        """Return what a row asks for.

        Raises:
            SettingError: it cannot be read, or cannot work.
            AttachError: its policy does not fit the model.
        """
        if line.fault is not None:
            raise SettingError(line.fault)
        values = _by_name(line.values)
        own = self._own(values)
        same = {name: True if name in own else value for name, value in values.items()}
        name = json.dumps(same, sort_keys=True, default=repr)
        if name not in self._plans:
            if len(self._plans) == MOST_PLANS:
                self._plans.clear()
            self._plans[name] = self._plan(values, own)
        return Asked(self._plans[name], own)

    def whole(self, asked: Asked) -> Choices:
        """Return all that a row amounts to, its pictures and videos opened.

        Raises:
            SettingError: one of them cannot be read.
        """
        fresh = chosen(asked.settings, self._kind, self._device, (asked.prompt,))
        return dataclasses.replace(fresh, policy=asked.plan.choices.policy)

    def _own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = {}
        for name in OWN:
            if name not in values:
                continue
            value = values[name]
            if name in ("seed", "guidance_scale"):
                own[name] = read_or_fit(value, int if name == "seed" else float, name)
                check_range(name, own[name], name)
            elif name in FILES:
                own[name] = self._path(value, name)
            else:
                own[name] = check_text(_text(value, name), name).strip()
        if self._takes_prompt and not own.get("prompt"):
            raise _refused("no prompt", "a text in the column prompt", "describe the video")
        if "prompt" in own and not self._takes_prompt:
            raise _refused(f"a prompt for {self._kind.__name__}, which takes none", "no prompt", "leave the column out")
        return own

    def _plan(self, values: Mapping[str, Any], own: Mapping[str, Any]) -> Plan:
        """What rows of this kind have in common, checked with one of them."""
        from bwcache.measure.inputs import NAMES, argument_for
        from bwcache.measure.media import recorded

        settings = self._merged(values)
        check_ranges(settings)
        asked = dataclasses.replace(settings, **(dict(own) | {"prompt": [own.get("prompt", "")]}))
        choices = chosen(asked, self._kind, self._device, (own.get("prompt", ""),))
        if self._pipe is not None:
            choices = check_fits(self._pipe, dataclasses.replace(choices, scheduler=None))
        files = {argument_for(self._kind, what) for what in NAMES} | {"negative_prompt"}
        more = {name: text for name, text in map(halves, settings.sets) if text.startswith("@")}
        parts = {
            "steps": choices.steps,
            "sizes": [choices.frames, choices.height, choices.width],
            "fps": choices.fps,
            "policy": choices.policy.describe() if settings.cache else None,
            "arguments": {k: recorded(one) for k, one in choices.arguments.items() if k not in files | more.keys()},
            "more_files": {name: [_state(Path(one[1:])) for one in split(text)] for name, text in more.items()},
        }
        return Plan(settings, choices, parts)

    def _merged(self, values: Mapping[str, Any]) -> GenerateSettings:
        """The command's options with those of a row, but for the columns in `OWN`."""
        given: dict[str, Any] = {}
        sets = list(self._settings.sets)
        if "policy" in values or "grade" in values:  # a method of its own: what is said of the other one is void
            given = {"policy": None, "grade": None, **dict.fromkeys(SHORTHANDS)}
            sets = list(self._of_call)
        for name, value in values.items():
            if name in OWN:
                continue
            if name in NUMBERS:
                given[name] = read_or_fit(value, NUMBERS[name], name)
            elif name == "policy" and isinstance(value, Mapping):
                fields = dict(value)
                given["policy"] = self._policy(_text(fields.pop("name", None), "the name in policy"))
                sets += [f"{POLICY}{field}={self._table(_words(one))}" for field, one in fields.items()]
            elif name == "policy":
                given[name] = self._policy(_text(value, name))
            elif name == "grade":
                given[name] = _text(value, name)
            else:
                sets = [one for one in sets if halves(one)[0] != halves(name)[0]]
                if name in SHORTHANDS:
                    given[name] = _words(value)
                else:
                    sets.append(f"{name}={self._table(self._media(_words(value)))}")
        return dataclasses.replace(self._settings, **given, sets=sets)

    def _path(self, value: Any, column: str) -> Path:
        path = self._folder / Path(_text(value, column)).expanduser()
        if not path.is_file():
            what = "a picture or video" if column in FILES else "a file that is there"
            raise _refused(f"{column} {shown(str(path))}, which is no file", what, "name another one")
        return path

    def _policy(self, text: str) -> str:
        """What is named in place of a policy; the path of a file from the prompt file's folder on."""
        return str(self._path(text, "policy")) if names_file(text) else text

    def _table(self, text: str) -> str:
        """The words of a setting; the path of a file with a table from the prompt file's folder on."""
        return str(self._path(text, "file")) if text.lower().endswith((SUFFIX, ARRAYS)) else text

    def _media(self, text: str) -> str:
        """The words of an argument, with the paths of files from the prompt file's folder on."""
        parts = split(text)
        if not all(part.startswith("@") for part in parts):
            return text
        return ",".join(f"@{self._path(part[1:], 'file')}" for part in parts)


def _by_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row, each by the name that its column stands for."""
    found: dict[str, Any] = {}
    for column, value in values.items():
        name = column.strip().replace("-", "_")
        if name in found:
            raise _refused(f"two columns that mean {shown(name)}", "one", "leave one out")
        found[name] = value
    return found


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise _refused(f"{column} {shown(value)}", "a text", "put it into quotes")
    return value


def _words(value: Any) -> str:
    """A value as one writes it after ``--set NAME=``."""
    return value if isinstance(value, str) else repr(value)


def halves(text: str) -> tuple[str, str]:
    """Return the name and the value of ``--set``'s "NAME=VALUE"; the name without what says whose it is."""
    name, _, value = text.partition("=")
    return name.strip().removeprefix(POLICY).removeprefix(CALL).replace("-", "_"), value.strip()


def _state(path: Path) -> list[Any]:
    """By what a file is known, without being read: where it is, its size, when it was written."""
    try:
        seen = path.stat()
    except OSError as error:
        raise _refused(
            f"file {shown(str(path))} that cannot be read ({error.strerror})", "one", "name another"
        ) from error
    return [str(path.resolve()), seen.st_size, seen.st_mtime_ns]


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
