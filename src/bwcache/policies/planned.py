"""Planned: the whole list of computed steps is foretold before the first one. A method of this project; no paper.

What is kept is the denoiser's estimate of the clean latents: one tensor of the size of the latents. It moves far less
than the prediction that is made of it, since the latents' own motion is taken out; a skipped step calls nothing of the
model. Which steps are computed is planned as the run begins, from its noise levels alone (`planning`), so that the
damage foretold for the whole run stays within a tolerance, with as few computed steps as that takes.

Until the next one an estimate follows the line through the last two for a part of the way: `Bounded`. Or it is made
inside of its window, for which it holds then (`ahead`): the latents are carried on along the way that they came, and
the denoiser is evaluated there. Where that is too far to go, or cannot be mapped for certain, it is evaluated in place.
Early windows go further along that line, and so make up for what the one before them missed (`makes_up`).

Where nobody says the noise levels before the run, windows are as long as the same damage allows, one after another, and
evaluated in place. Where noise rises, as a video is inverted, nothing is foretold, and all is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from bwcache.core import Decision, Step, compute, reuse
from bwcache.features import Bounded, Extended, Last, Predictor
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, expect_predictor, number, whole
from bwcache.policies.entry import Entry
from bwcache.policies.planning import EARLY, Window, best, carried, damages, foretold, made_up

FAR = 0.01
"""Damage that carrying the latents into a window may do, as foretold; where it would be more it is evaluated in place.
Of lists of 7 and 8 of 50 steps most windows are such, of 10 none (Euler, shift 5): so each has the better worst videos.
Going a part of the way was worse than either."""
NOISE_RISES = "noise rises: choose another policy (what is foretold is of noise that falls)"
USUAL_WINDOWS = 10
"""So many windows share the tolerance where the noise levels to come are not known."""


@dataclass
class Held:
    """The window that one sample is in, where no plan can be made.

    Attributes:
        window: since the last computed step.
        began_at: the computed step with which it began.
        decided_at, decision: of the last step that was asked about; other branches follow it.
    """

    window: Window | None = None
    began_at: int = -1
    decided_at: int = -1
    decision: Decision = field(default_factory=lambda: compute("first step"))


@dataclass
class State:
    """One run.

    Attributes:
        held: where no plan can be made, one for each sample that decides for itself.
        ahead: of each, whether its last computed step was evaluated inside of its window.
    """

    held: dict[int | None, Held] = field(default_factory=dict)
    ahead: dict[int | None, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned(Policy[State]):
    """Computes the steps of a plan that is made of the run's noise levels, and holds the clean estimate in between.

    Args:
        tolerance: damage of the whole run as foretold (dimensionless: relative error of the final latents), >= 0. The
            one number to choose; .02 is near, .03 balanced, .04 fast. 0 never reuses.
        computed: exactly so many steps are computed instead, where the noise levels are known before the run, >= 1;
            of a very long run at least every 64th.
        predictor: how the clean estimate of a skipped step is made, where the last one was evaluated in place.
        ahead: how far into a window of several steps the denoiser is evaluated, 0..1: 0 in place, .5 at the mean of
            their noise levels.
        makes_up: whether a window above a noise of .9 that follows another one makes up for what that one missed,
            in place of the predictor; where the noise levels are known before the run. None: where the predictor keeps
            two estimates, and none is made inside of its window.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2 of the size of the latents; with `ahead` 3",
        reads="nothing: the list is planned from the noise levels",
        verified="lists against brute force, damage against its definition",
        origin="this project",
    )

    tolerance: float = 0.03
    computed: int | None = None
    predictor: Predictor = field(default_factory=Bounded)
    ahead: float = 0.0
    makes_up: bool | None = None

    def __post_init__(self) -> None:
        expect(number(self.tolerance) and self.tolerance >= 0, "tolerance", self.tolerance, "a number >= 0", "0.03")
        counts = self.computed is None or whole(self.computed, 1)
        expect(counts, "computed", self.computed, "a whole number of steps >= 1, or None", "10")
        expect_predictor(self.predictor, "bwcache.Bounded()")
        expect(number(self.ahead) and 0 <= self.ahead <= 1, "ahead", self.ahead, "a share 0..1", "0")
        known = self.makes_up is None or isinstance(self.makes_up, bool)
        expect(known, "makes_up", self.makes_up, "True, False or None", "None")
        two = not self.makes_up or self.predictor.history > 1
        expect(two, "predictor", self.predictor, "with makes_up one that keeps two estimates", "bwcache.Bounded()")

    @property
    def making_up(self) -> bool:
        """Whether early windows make up for what the one before them missed."""
        return self.predictor.history > 1 and self.ahead == 0 if self.makes_up is None else self.makes_up

    @property
    def feature_predictor(self) -> Predictor:
        """`predictor`."""
        return self.predictor

    @property
    def may_reuse(self) -> bool:
        """Not with a tolerance of 0, unless `computed` says how many."""
        return self.tolerance > 0 or self.computed is not None

    @property
    def looks_ahead(self) -> bool:
        """With `ahead`."""
        return self.ahead > 0

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The denoiser itself: the clean latents that its prediction means."""
        return (stack.site(stack.root, keeps="clean"),)

    def init(self) -> State:
        """No window has begun."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """Looks the step up in the plan; where there is none, holds as long as a window's damage allows."""
        step = observation.step
        if step.inverts:
            return compute(NOISE_RISES)
        if step.schedule is not None:
            steps, damage = plan(step.schedule, self.tolerance, self.computed)
            if step.index in steps:
                return compute("planned", damage, inside(step.schedule, steps, self.ahead).get(step.index))
            planned = f"{len(steps)} of {step.total} steps planned"
            if state.ahead.get(step.sample):
                return reuse(f"held ({planned})", damage, Last())
            beyond = beyond_newest(step.schedule, steps).get(step.index) if self.making_up else None
            if beyond is None:
                return reuse(f"held ({planned})", damage)
            return reuse(f"making up for the window before ({beyond:.4f}, {planned})", damage, Extended(1 + beyond))
        held = state.held.setdefault(step.sample, Held())
        if held.decided_at != step.index:
            held.decided_at, held.decision = step.index, self._along(step, held.window)
        return held.decision

    def refresh(self, observation: Observation, state: State) -> None:
        """A computed step begins a window."""
        step = observation.step
        state.ahead[step.sample] = observation.evaluated_at is not None
        held = state.held.setdefault(step.sample, Held())
        if held.began_at == step.index or step.schedule is not None:
            return
        held.began_at, held.window = step.index, None
        if step.noise is not None and step.next_noise is not None:
            held.window = Window(step.noise)
            held.window.go(step.noise, step.next_noise)

    def _along(self, step: Step, window: Window | None) -> Decision:
        """A decision without a plan: of the window so far."""
        if window is None or step.noise is None or step.next_noise is None:
            return compute("noise level unknown: pass steps= where nobody says it")
        limit = self.tolerance / USUAL_WINDOWS**0.5
        damage = window.go(step.noise, step.next_noise) ** 0.5
        if damage > limit:
            return compute(f"damage would exceed the window's ({damage:.4f} > {limit:.4f})", damage)
        return reuse(f"within the window's damage ({damage:.4f} of {limit:.4f})", damage)


@lru_cache(maxsize=64)
def plan(schedule: tuple[float, ...], tolerance: float, computed: int | None = None) -> tuple[frozenset[int], float]:
    """Return the steps to compute, and the damage that this does, as foretold.

    Args:
        schedule: share of noise at each step and after the last one, 1..0.
        tolerance: the damage that is allowed.
        computed: how many steps instead.
    """
    windows = damages(schedule)
    steps = best(windows, tolerance**2, computed)
    return frozenset(steps), foretold(windows, steps)


@lru_cache(maxsize=64)
def inside(schedule: tuple[float, ...], steps: frozenset[int], ahead: float) -> dict[int, float]:
    """Return the computed steps that are evaluated inside of their windows, and the noise level there.

    Args:
        schedule: share of noise at each step and after the last one, 1..0.
        steps: those that are computed.
        ahead: how far into the window: .5 is at the mean of its steps.
    """
    found, before, listed = dict[int, float](), schedule[0], sorted(steps)
    for first, end in zip(listed, [*listed[1:], len(schedule) - 1], strict=True):
        here = schedule[first]
        there = here + 2 * ahead * (sum(schedule[first:end]) / (end - first) - here)
        if first and there < here and carried(here, there, before) <= FAR:
            found[first] = there
        before = found.get(first, here)
    return found


@lru_cache(maxsize=64)
def beyond_newest(schedule: tuple[float, ...], steps: frozenset[int]) -> dict[int, float]:
    """Return how far skipped steps that make up for the window before theirs go beyond the newest estimate, by index.

    In differences of the last two estimates, to four digits, so that the trace says all of it.

    Args:
        schedule: share of noise at each step and after the last one, 1..0.
        steps: those that are computed.
    """
    found, listed = dict[int, float](), sorted(steps)
    for before, first, end in zip(listed, listed[1:], [*listed[2:], len(schedule) - 1], strict=False):
        if schedule[first] > EARLY:
            beyond = round(made_up(schedule[before], schedule[first], schedule[end]), 4)
            found |= dict.fromkeys(range(first + 1, end), beyond)
    return found
