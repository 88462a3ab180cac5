"""Tuned: the steps and the weights that `bwcache tune` found for one model, scheduler and number of steps.

No paper. The denoiser itself is the site, and what is kept is its estimate of the clean latents: in a skipped step that
is a weighted sum of the last few, with weights that belong to the step that was computed last. On another schedule the
list goes over by noise level: each of its steps to the one nearest in log-SNR. The weights do not, and the last
estimate is replayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from bwcache.core import Decision, Step, compute, reuse
from bwcache.core.kinds import is_number
from bwcache.errors import SettingError, complaint
from bwcache.features import Last
from bwcache.features.predictors import FACTOR
from bwcache.features.weighted import Weighted
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, whole
from bwcache.policies.entry import Entry
from bwcache.policies.planned import NOISE_RISES

ALIKE = 2e-4
"""Shares of noise that differ by no more are the same: schedulers keep single precision, some round times."""


@dataclass(frozen=True)
class Tuned(Policy[None]):
    """Computes the steps of a list; in all others the clean latents are a weighted sum of the last estimates.

    Args:
        steps: indices of the computed steps, ascending from 0.
        rows: for each of them the weights of the last estimates, newest first, in the steps after it.
        schedule: share of noise at each step of the run that this was made for, and after the last one: 1..0.
        model: class of the denoiser that this was made for; "": any.

    Raises:
        SettingError: lists that do not belong together, or values that cannot be.
    """

    entry = Entry(
        keeps="the last estimates that a row weighs, of the size of the latents",
        reads="nothing",
        verified="a loop by hand",
        calibration="steps and weights, by `bwcache tune`",
        origin="this project",
    )

    steps: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]
    schedule: tuple[float, ...]
    model: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "schedule"):
            value = getattr(self, name)
            expect(isinstance(value, (tuple, list)), name, value, "a list", "what bwcache tune wrote")
            plain = tuple(tuple(one) if isinstance(one, (tuple, list)) else one for one in value)
            object.__setattr__(self, name, plain)
        shares = self.schedule
        falls = len(shares) > 1 and all(is_number(share) and 0 <= share <= 1 for share in shares)
        falls = falls and all(a > b for a, b in pairwise(shares))
        expect(falls, "schedule", shares, "descending shares of noise, 1..0", "what bwcache tune wrote")
        steps = self.steps
        rises = bool(steps) and all(whole(step, 0) for step in steps) and steps[0] == 0
        rises = rises and all(a < b for a, b in pairwise(steps)) and steps[-1] < len(shares) - 1
        expected = f"ascending indices from 0, below {len(shares) - 1}"
        expect(rises, "steps", steps, expected, "(0, 1, 2, 5, 10)")
        fine = len(self.rows) == len(steps) and all(map(_is_row, self.rows))
        expected = f"{len(steps)} lists, each of one or more weights, {FACTOR.name}"
        expect(fine, "rows", self.rows, expected, "(1.0,) for each step")
        expect(isinstance(self.model, str), "model", self.model, "the name of a class", "leaving it out")

    @property
    def feature_predictor(self) -> Weighted:
        """The sums."""
        return Weighted(tuple(zip(self.steps, self.rows, strict=True)))

    @property
    def may_reuse(self) -> bool:
        """Whether the list leaves any step out."""
        return len(self.steps) < len(self.schedule) - 1

    @property
    def needs_total(self) -> bool:
        """Yes: the list is of a run of so many steps."""
        return True

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The denoiser itself, of which the clean latents are kept.

        Raises:
            SettingError: it is not the one that this was made for.
        """
        found = type(stack.module).__name__
        if self.model and found != self.model:
            action = "tune this one too: bwcache tune --model …"
            raise SettingError(complaint(f"{found} under a plan for {self.model}", self.model, action))
        return (stack.site(stack.root, keeps="clean"),)

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """Looks it up, on the run's own schedule."""
        step = observation.step
        if step.inverts:
            return compute(NOISE_RISES)
        if not self.may_reuse or self.is_for(step):
            listed = not self.may_reuse or step.index in self.steps
            return compute("on the list") if listed else reuse("not on the list")
        shares = step.schedule
        if shares is None:
            return compute("tuned for another schedule (and this one is not known)")
        if step.index in carried_over(self.steps, self.schedule, shares):
            return compute("on the list carried over")
        return reuse("not on the list carried over", how=Last())

    def is_for(self, step: Step) -> bool:
        """Return whether a step is of a run on the schedule that this was made for."""
        if step.schedule is not None:
            return alike(step.schedule, self.schedule)
        if step.total != len(self.schedule) - 1 or step.noise is None or step.next_noise is None:
            return False
        return alike((step.noise, step.next_noise), self.schedule[step.index : step.index + 2])


def alike(here: tuple[float, ...], there: tuple[float, ...]) -> bool:
    """Return whether two schedules are the same, up to rounding."""
    return len(here) == len(there) and all(abs(a - b) <= ALIKE for a, b in zip(here, there, strict=True))


@lru_cache(maxsize=64)
def carried_over(steps: tuple[int, ...], made_for: tuple[float, ...], here: tuple[float, ...]) -> tuple[int, ...]:
    """Return for each step of a list the step of another schedule whose log-SNR is nearest; each once, and step 0.

    Args:
        steps: indices in `made_for`.
        made_for: share of noise at each step and after the last.
        here: the same of the other schedule.
    """
    levels = [_log_snr(share) for share in here[:-1]]
    nearest = (min(range(len(levels)), key=lambda k: abs(levels[k] - _log_snr(made_for[step]))) for step in steps)
    return tuple(sorted({0, *nearest}))


def _log_snr(share: float) -> float:
    """The logarithm of signal over noise; what is all noise or all signal counts as nearly so."""
    share = min(max(share, 1e-4), 1 - 1e-4)
    return math.log((1 - share) / share)


def _is_row(row: object) -> bool:
    return isinstance(row, tuple) and bool(row) and all(map(FACTOR.holds, row))
