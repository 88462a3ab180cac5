"""What is said around a forward: by the program around the denoiser, or by a pipeline in its cache context."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bwcache.errors import SettingError, complaint
from bwcache.features.noise_level import PREDICTS


@dataclass(frozen=True)
class HostStep:
    """What a host says of the forwards in one step; None: it does not say.

    Attributes:
        index: ordinal of the step in its run, from 0. One that is lower than before begins a new run, and so does the
            same branch once more at the same index.
        total: number of steps of the run.
        branch: name of the guidance branch, or one for each of the equal parts of the batch, in order: then each is
            kept for itself, whether they come together or in forwards of their own.
        sigma: noise level, as the scheduler names it.
        noise: share of noise in the latents before and after this step, 1..0; one number: before it.
        prediction: what the denoiser returns: "flow", "epsilon", "v" or "sample".
        schedule: share of noise at each step of the run and after the last one, 1..0, never rising; or as where
            a video is inverted never falling.
        time_of: of a share of noise: the time argument that the denoiser has there. Said only where latents go on as
            they came, without new noise.

    Raises:
        SettingError: a value that cannot be meant.
    """

    index: int | None = None
    total: int | None = None
    branch: str | tuple[str, ...] | None = None
    sigma: float | None = None
    noise: float | tuple[float, float] | None = None
    prediction: str | None = None
    schedule: tuple[float, ...] | None = None
    time_of: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        _expect_count("index", self.index, 0)
        _expect_count("total", self.total, 1)
        if self.index is not None and self.total is not None and self.index >= self.total:
            raise _wrong(f"index {self.index} of total {self.total}", "an index below the total", "count from 0")
        if self.schedule is not None:
            self._expect_schedule(self.schedule)
        names = self.branches
        if not all(isinstance(name, str) and name and not set(name) & set("#+") for name in names) or (
            len(set(names)) < len(names) or self.branch == ()
        ):
            raise _wrong(
                f"branch {self.branch!r}", "a name, or a tuple of different names", "name each part of the batch once"
            )
        if not all(_is_number(value) and 0 <= value <= 1 for value in self.noises if value is not None):
            raise _wrong(f"noise {self.noise!r}", "shares from 1 to 0", "pass (before, after) the step")
        if self.sigma is not None and not _is_number(self.sigma):
            raise _wrong(f"sigma {self.sigma!r}", "a number", "pass the scheduler's sigma of this step")
        if self.prediction not in (None, *PREDICTS):
            raise _wrong(f"prediction {self.prediction!r}", f"one of {', '.join(PREDICTS)}", "name what it returns")

    def _expect_schedule(self, schedule: tuple[float, ...]) -> None:
        shares = isinstance(schedule, tuple) and all(_is_number(value) and 0 <= value <= 1 for value in schedule)
        if not shares or len(schedule) < 2 or not goes_one_way(schedule):
            raise _wrong(
                f"schedule {schedule!r}",
                "a tuple of shares from 1 to 0 that never rise, or never fall, one more than there are steps",
                "leave it out where the sampler goes back",
            )
        if self.index is None or self.index >= len(schedule) - 1 or self.total not in (None, len(schedule) - 1):
            raise _wrong(
                f"a schedule of {len(schedule) - 1} steps with index {self.index} of total {self.total}",
                "an index in it, and the same number of steps",
                "pass index=",
            )

    @property
    def branches(self) -> tuple[str, ...]:
        """The names of the branches in the batch; none if the host names none."""
        if isinstance(self.branch, (tuple, list)):
            return tuple(self.branch)
        return () if self.branch is None else (self.branch,)

    @property
    def steps(self) -> int | None:
        """The number of steps of the run."""
        return self.total if self.schedule is None else len(self.schedule) - 1

    @property
    def noises(self) -> tuple[float | None, float | None]:
        """The share of noise before and after the step."""
        if self.noise is None and self.schedule is not None and self.index is not None:
            return (self.schedule[self.index], self.schedule[self.index + 1])
        if isinstance(self.noise, (tuple, list)):
            if len(self.noise) != 2:
                raise _wrong(f"noise {self.noise!r}", "two shares", "pass (before, after) the step")
            return (self.noise[0], self.noise[1])
        return (self.noise, None)


@dataclass(frozen=True)
class Context:
    """What a pipeline says around a forward: diffusers' cache context, of whatever version. None: not said."""

    name: str
    step_index: int | None = None
    num_inference_steps: int | None = None
    timestep: Any = None
    sigma: float | None = None


def goes_one_way(schedule: tuple[float, ...]) -> bool:
    """Return whether shares of noise never rise, or as where a video is inverted never fall."""
    return list(schedule) in (sorted(schedule), sorted(schedule, reverse=True))


def _expect_count(name: str, value: Any, least: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise _wrong(f"{name} {value!r}", f"a whole number from {least} on", "count the steps of the run")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(found: str, expected: str, instead: str) -> SettingError:
    return SettingError(complaint(found, expected, instead))
