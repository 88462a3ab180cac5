"""A policy in a file, with what it was made for: what all of our commands have in common that write one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

from bwcache.core.files import named_without_suffix, read_json
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.models.weights import WeightSample
from bwcache.policies.base import Policy

SUFFIX = ".json"
"""Of a file in place of a policy."""


@dataclass(frozen=True)
class PolicyFile(ABC):
    """What such a file holds.

    Attributes:
        policy: ready to attach.
        made_for: model, weights, scheduler and its settings, steps, guidance and sizes.
    """

    KIND: ClassVar[str]
    """What its format begins with."""
    MADE_BY: ClassVar[str]
    """The command that writes it, such as "bwcache tune"."""
    WORD: ClassVar[str]
    """What that does: a model is "tuned"."""
    PARTS: ClassVar[tuple[str, ...]]
    """Objects that it holds besides the policy, `made_for` the first."""

    policy: Policy[Any]
    made_for: Mapping[str, Any]

    @property
    @abstractmethod
    def denoiser(self) -> str:
        """Return the class of the denoiser that it was made for; "": any."""

    @property
    @abstractmethod
    def again(self) -> str:
        """Return the call that makes one for another model, without its options."""

    @property
    @abstractmethod
    def is_of_a_schedule(self) -> bool:
        """Return whether it is of no use with another scheduler, or other settings of it."""

    @classmethod
    @abstractmethod
    def expect_policy(cls, policy: Policy[Any], name: str) -> None:
        """Raises `SettingError` where the policy is none that such a file can hold; `name` is the file's."""

    @classmethod
    def format(cls) -> str:
        """Return what it says it is."""
        return f"{cls.KIND}-1"

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `read` reads them again."""
        parts = {name: dict(getattr(self, name)) for name in self.PARTS}
        return {"format": self.format(), "policy": self.policy.describe(), **parts}


def names_file(text: object) -> TypeGuard[str | Path]:
    """Return whether what is given in place of a policy is a path to such a file."""
    return isinstance(text, Path) or (isinstance(text, str) and text.lower().endswith(SUFFIX))


def read_content(path: str | Path) -> Any:
    """Return the JSON of a file.

    Raises:
        SettingError: it cannot be read, or is damaged.
    """
    name = shown(str(path))
    try:
        return read_json(Path(path).expanduser())
    except (OSError, RuntimeError) as error:
        found = f"a file {name} that cannot be read ({getattr(error, 'strerror', None) or error})"
        meant = named_without_suffix(str(path), SUFFIX)
        action = f"{meant} is there: name it so" if meant else "check the path"
        raise refused(found, "one with a policy or a table", action) from error
    except ValueError as error:
        found = f"a file {name} that is damaged ({' '.join(str(error).split())})"
        raise refused(found, "JSON, as it was written", "make it anew") from error


def read(path: str | Path, *kinds: type[PolicyFile]) -> Any:
    """Return what a file of one of these kinds holds.

    Raises:
        SettingError: it cannot be read, or is none of these.
    """
    return of_content(read_content(path), shown(str(path)), *kinds)


def of_content(content: Any, name: str, *kinds: type[PolicyFile]) -> Any:
    """Return what the JSON of such a file means; raises as `read`. `name` is the file's, for complaints."""
    from bwcache.policies.known import policy

    again = "make one: " + " or ".join(f"{kind.MADE_BY} … --out FILE" for kind in kinds)
    kind = kind_of(content, *kinds)
    if kind is None:
        says = shown(content.get("format")) if isinstance(content, dict) else type(content).__name__
        written = " or ".join(f"{kind.format()!r}, as {kind.MADE_BY} writes it" for kind in kinds)
        raise refused(f"format {says} in {name}", written, again)
    parts = [part for part in map(content.get, kind.PARTS) if isinstance(part, dict)]
    if len(parts) < len(kind.PARTS):
        raise refused(f"parts that are missing in {name}", " and ".join(kind.PARTS), again)
    _expect_what_is_compared(parts[0], name, again)
    try:
        found = policy(content.get("policy", {}))
    except SettingError as error:
        raise SettingError(f"in {name}: {error}") from error
    kind.expect_policy(found, name)
    return kind(found, *parts)


def kind_of(content: Any, *kinds: type[PolicyFile]) -> type[PolicyFile] | None:
    """Return which of these kinds of file the JSON says it is; None: none."""
    says = content.get("format") if isinstance(content, dict) else None
    return next((kind for kind in kinds if kind.format() == says), None)


def _expect_what_is_compared(made_for: Mapping[str, Any], name: str, again: str) -> None:
    """What a file is held against when it is attached may be missing, but it must not be something unreadable."""
    for part in ("architecture", "scheduler", "weight_sample"):
        value = made_for.get(part)
        if value is not None and not isinstance(value, dict):
            raise refused(f"{part} {shown(value)} in made_for of {name}", "an object, or null", again)
    scheduler = made_for.get("scheduler") or {}
    for part, kind, expected in (("predicts", str, "a text such as 'flow'"), ("class", str, "a text"),
                                 ("settings", dict, "an object")):  # fmt: skip
        value = scheduler.get(part)
        if value is not None and not isinstance(value, kind):
            raise refused(f"{part} {shown(value)} in made_for of {name}", f"{expected}, or null", again)
    denoiser = made_for.get("denoiser")
    if denoiser is not None and not isinstance(denoiser, str):
        raise refused(f"denoiser {shown(denoiser)} in made_for of {name}", "the name of a class, or null", again)
    sample = made_for.get("weight_sample")
    if sample is not None and WeightSample.from_json(sample) is None:
        expected = "a digest and a list of dtypes, or null"
        raise refused(f"weight_sample {shown(sample)} in made_for of {name}", expected, again)


def refused(found: str, expected: str, action: str) -> SettingError:
    """Return the refusal of a file."""
    return SettingError(complaint(found, expected, action))
