"""MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference.

Gao, Chen, Shi, Wu, Li, Hui, You, Lu, Tan, Zhao, Liu, Zhao, Wang, Lian; arXiv 2601.19961, ICLR 2026. Training-free,
calibrated. Symbols of the paper: v the velocity that the denoiser returns, x the latents, u the mean of v over an
interval, t a time (here the share of noise), K how many steps before t lies r, B steps that are computed.

1. In a skipped step, v is that of the step before, and how v turned since r is carried on over the step:
   v - J * (t' - t) with J = (v[r] - (x[t] - x[r]) / (t - r)) / (t - r), t' the next time. K = 1 replays v.
2. From one computed step to the next, an edge, K is always the same. Calibration, on uncached runs: what the mean
   velocity over an edge misses, for each K: L[K] = |u - u'|, averaged over runs. The best K is the edge's.
3. The list of computed steps is the path of at most B steps from the first one to the end for which the sum of
   L ** gamma is least: the higher gamma, the more a single large error counts.

The latents went as far as the velocities that were used took them, so that x[t] - x[r] is a sum of these, and v a sum
of the computed ones: nothing else is kept, and each guidance branch goes by itself.

Readings: that holds for Euler's steps; with other samplers it is near. L is the root of the mean square. Guidance
branches count as runs of their own, where the paper takes the guided velocity. The last edge ends where the run does.

Made for flow matching, where the denoiser returns a velocity.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bwcache.core import Decision, Event, Trace, compute, reuse
from bwcache.errors import SettingError, complaint
from bwcache.features import All, squared
from bwcache.features.mean_velocity import MeanVelocity, velocities
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper, Table
from bwcache.policies.measuring import Measuring, expect_finite, settings_of, unfit
from bwcache.policies.published import CODE, Published


def _list(*computed: int, lags: tuple[int, ...]) -> Published:
    return Published({"computed": computed, "lags": lags, "steps": 50}, f"{CODE} for Qwen-Image")


PUBLISHED: Mapping[str, Published] = {
    "Qwen-Image, 10 of 50 steps": _list(0, 1, 3, 7, 14, 21, 28, 35, 42, 49, lags=(1, 2, 1, 1, 1, 1, 1, 1, 4, 1)),
    "Qwen-Image, 17 of 50 steps": _list(
        *(*range(9), 10, 17, 24, 31, 38, 45, 48, 49), lags=(*(1,) * 8, 2, *(1,) * 5, 4, 1, 1)
    ),
    "Qwen-Image, 25 of 50 steps": _list(
        *(*range(17), 24, 32, 40, 43, 45, 47, 48, 49), lags=(*(1,) * 19, 5, 5, 5, 1, 1, 1)
    ),
}
"""By model and number of computed steps: these, and K of the edge after each."""


@dataclass(frozen=True)
class MeanCache(Policy[None]):
    """Computes the steps of a list, and lets the velocity turn in between as it turned before.

    Args:
        computed: the steps that are computed, ascending from 0.
        lags: K of the steps after each of them, >= 1.
        steps: of the runs on which that was found, and of those that can be made with it; None: any. The list by
            default is the authors' for 10 of 50 steps of Qwen-Image.

    Raises:
        SettingError: lists that do not belong together.
    """

    entry = Entry(
        keeps="10 of the size of the latents: the computed velocities",
        reads="nothing",
        verified="a second implementation of the authors' rule in numpy",
        calibration="computed steps and lags",
        table=Table(("computed", "lags", "steps"), "runs"),
        paper=Paper(
            title="MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference",
            authors="Gao, Chen, Shi, Wu, Li, Hui, You, Lu, Tan, Zhao, Liu, Zhao, Wang, Lian",
            arxiv="2601.19961",
            venue="ICLR 2026",
        ),
    )

    computed: tuple[int, ...] = (0, 1, 3, 7, 14, 21, 28, 35, 42, 49)
    lags: tuple[int, ...] = (1, 2, 1, 1, 1, 1, 1, 1, 4, 1)
    steps: int | None = 50

    def __post_init__(self) -> None:
        for name in ("computed", "lags"):
            value = getattr(self, name)
            expect(isinstance(value, (tuple, list)), name, value, "a list", "what fitted() returns")
            object.__setattr__(self, name, tuple(value))
        rises = bool(self.computed) and all(whole(step, 0) for step in self.computed) and self.computed[0] == 0
        rises = rises and all(a < b for a, b in pairwise(self.computed))
        expect(rises, "computed", self.computed, "ascending steps from 0", "(0, 1, 3, 7)")
        fine = len(self.lags) == len(self.computed) and all(whole(lag, 1) for lag in self.lags)
        expect(fine, "lags", self.lags, f"{len(self.computed)} whole numbers >= 1", "1 for each computed step")
        expect(self.steps is None or whole(self.steps, 1), "steps", self.steps, "a whole number >= 1, or None", "50")

    @property
    def feature_predictor(self) -> MeanVelocity:
        """Rule 1."""
        places = (bisect_right(self.computed, step) - 1 for step in range(min(self.computed[-1], MOST_STEPS) + 2))
        return MeanVelocity(tuple(self.lags[place] for place in places), len(self.computed))

    @property
    def may_reuse(self) -> bool:
        """Not where every step is on the list."""
        return self.steps is None or len(self.computed) < self.steps

    needs_total = True  # the list is of a run of so many steps

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The denoiser itself."""
        return (stack.site(stack.root),)

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """The list."""
        step = observation.step
        if step.index in self.computed:
            return compute("on the list")
        if step.schedule is None:
            return compute("noise level unknown: pass steps= where nobody says it")
        lag = self.lags[bisect_right(self.computed, step.index) - 1]
        return reuse(f"mean velocity (turning as over the last {lag} steps)" if lag > 1 else "mean velocity (replayed)")

    def check(self, total: int) -> None:
        """Raises `SettingError` where the list was found on runs of another number of steps."""
        if self.steps not in (None, total):
            raise SettingError(complaint(f"a list for {self.steps} steps", f"for {total}", "calibrate on as many"))

    @classmethod
    def measuring(cls, steps: int = 50) -> MeasuringVelocities:
        """Return what records how far apart the velocities of runs of up to so many steps lie, >= 2."""
        expect(whole(steps, 2), "steps", steps, "a whole number >= 2", "50")
        return MeasuringVelocities(steps - 1)

    @classmethod
    def fitted(cls, traces: Sequence[Trace], computed: int = 12, power: float = 4.0, most: int = 6) -> MeanCache:
        """Return the list for B = `computed` steps, gamma = `power` and K up to `most`, from runs under `measuring`.

        Raises:
            SettingError: none, runs of another kind, of different schedules, with NaN in them, or a value outside its
                range.
        """
        expect(whole(computed, 1), "computed", computed, "a whole number of steps >= 1", "12")
        expect(number(power) and power > 0, "power", power, "a number > 0", "4")
        expect(whole(most, 1), "most", most, "a whole number of steps >= 1", "6")
        schedule, apart = _measured(traces)
        costs, lags = _edges(schedule, apart, most)
        path = _path(costs**power, computed)
        ends = (*path[1:], len(schedule) - 1)
        return cls(path, tuple(int(lags[a, b]) for a, b in zip(path, ends, strict=True)), len(schedule) - 1)


MOST_STEPS = 10_000
"""No run has so many."""


@dataclass(frozen=True)
class MeasuringVelocities(Measuring):
    """Computes everything, and compares what the denoiser returns with the last steps; see `MeanCache`."""

    longest: int = 49

    def __post_init__(self) -> None:
        expect(whole(self.longest, 1), "longest", self.longest, "a whole number of steps >= 1", "49")

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The denoiser itself."""
        return (stack.site(stack.root),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """What it returns, against as many steps before."""
        lags = tuple(range(1, self.longest + 1))
        return (stack.tap(stack.root, view=All(), indicator=squared, lags=lags),)

    def refresh(self, observation: Observation, state: None) -> None:
        """Raises `SettingError` where no sigmas are known before the run, of which no list can be made."""
        step = observation.step
        if step.sigma is None or step.schedule is None:
            found = "a run whose sigmas nobody says before it"
            raise SettingError(complaint(found, "a scheduler of flow matching", "calibrate another method"))


Path = tuple[float, tuple[int, ...]]
"""What its edges cost so far, and the computed steps on it."""

NOWHERE: Path = (math.inf, ())


def _measured(traces: Sequence[Trace]) -> tuple[tuple[float, ...], list[np.ndarray]]:
    """The schedule, and for each run and branch the mean squared distance of each two velocities, `[T, T]`."""
    measured = settings_of(traces, MeasuringVelocities) is not None
    lanes: dict[tuple[int, str, int | None], list[Event]] = {}
    for i, trace in enumerate(traces):
        for event in trace.events:
            lanes.setdefault((i, event.branch, event.sample), []).append(event)
    schedules = {tuple(trace.meta.get("noise") or ()) for trace in traces}
    schedule = next(iter(schedules), ())
    told = len(schedules) == 1 and all(event.sigma is not None for some in lanes.values() for event in some)
    whole_runs = all(len(some) == some[0].total == len(schedule) - 1 for some in lanes.values())
    reach = all(len(event.distances or ()) >= event.step for some in lanes.values() for event in some)
    if not measured or not lanes or not told or not whole_runs or not reach:
        raise unfit(traces, "whole runs of one schedule of sigmas under MeanCache.measuring(as many steps)")
    expect_finite(traces)
    return schedule, [_apart(events) for events in lanes.values()]


def _apart(events: Sequence[Event]) -> np.ndarray:
    found = np.zeros((len(events), len(events)))
    for event in events:
        for lag in range(1, event.step + 1):
            found[event.step, event.step - lag] = found[event.step - lag, event.step] = (event.distances or ())[lag - 1]
    return found


def _edges(schedule: Sequence[float], apart: Sequence[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray]:
    """For the edge from each step to each later one (or the end): what it misses with the best K, and that K."""
    steps = len(schedule) - 1
    costs, lags = np.full((steps + 1, steps + 1), np.inf), np.ones((steps + 1, steps + 1), int)
    gaps = np.diff(np.asarray(schedule))
    for begin in range(steps):
        for lag in range(1, min(most, begin + 1) + 1):
            used = velocities(range(begin + 1), steps - 1, schedule, (lag,))[begin:].numpy()
            missed = np.zeros((steps - begin, steps))
            missed[:, : begin + 1] = np.cumsum(used * gaps[begin:, None], axis=0)
            for i in range(begin, steps):
                missed[i - begin :, i] -= gaps[i]
            spans = (np.asarray(schedule[begin + 1 :]) - schedule[begin])[:, None]
            np.divide(missed, spans, out=missed, where=spans != 0)  # over no time nothing is missed
            squares = [-np.einsum("ei,ij,ej->e", missed, each, missed) / 2 for each in apart]
            found = np.mean(np.sqrt(np.maximum(squares, 0)), axis=0)
            better = found < costs[begin, begin + 1 :] * (1 - 1e-12)
            costs[begin, begin + 1 :][better], lags[begin, begin + 1 :][better] = found[better], lag
    return costs, lags


def _path(costs: np.ndarray, most: int) -> tuple[int, ...]:
    """The steps from 0 to the end, no more than so many, for which the costs of the edges add up to least."""
    end = len(costs) - 1
    rows = [[(0.0, (0,)) if step == 0 else NOWHERE for step in range(end)]]  # by how many were computed: to each step
    for _ in range(min(most, end) - 1):
        before = rows[-1]
        rows.append([min((_further(before[a], a, b, costs) for a in range(b)), default=NOWHERE) for b in range(end)])
    return min(_further(row[step], step, end, costs) for row in rows for step in range(end))[1]


def _further(path: Path, begin: int, to: int, costs: np.ndarray) -> Path:
    """The path with the edge from its last step added."""
    cost, steps = path
    return (cost + float(costs[begin, to]), (*steps, to) if to < len(costs) - 1 else steps)
