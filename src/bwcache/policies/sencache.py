"""SenCache: Accelerating Diffusion Model Inference via Sensitivity-Aware Caching.

Haghighi, Alahi; arXiv 2602.24208, CVPR 2026. Training-free, calibrated. Symbols of the paper: x the latents, t the
time, f the denoiser, J_x and J_t how sensitive its output is to each, epsilon the tolerance, n the longest skip.

1. Beforehand, at each time, with the latents x' and the time t' of the next step: |J_x| = |f(x', t) - f(x, t)| over
   |x' - x|, and |J_t| = |f(x, t') - f(x, t)| over |t' - t|.
2. In a run, against the last computed step r: |J_x| * |x - x[r]| + |J_t| * |t - t[r]|, with the sensitivities at r, is
   what the output may have changed (Eq. 6).
3. While that is below epsilon and at most n steps in a row were skipped, what all blocks added at r is added again.
   Else they are computed. In the first fifth of the steps a smaller epsilon holds; the first and last are computed.

With guidance in several forwards the first branch of the run decides for all of them. The latents of this very forward
are looked at: one wait for the device in each of the deciding forwards. A batch decides as one.

Readings: the published code's, where paper and code differ; there epsilon comes with a number for each model and size
of video. Here changes are root mean squares over the entries, so that epsilon means the same in all sizes: J_t is in
units of output for each unit of the timestep. The table is asked for the entry nearest to the time of r.

Deviation: with guidance in one forward the latents of all branches, which are the same, are looked at. The
sensitivities are measured on the way of the model's own videos, by the first branch, where the authors add noise to
real ones; the last step has none of its own. Of the authors' tables J_t is a norm over the latents: `load` reads them
if they say of how many entries, beside `timesteps`, `J_x_norm` and `J_t_norm`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from bwcache.core import Decision, Event, Trace, compute, reuse
from bwcache.core.kinds import is_number
from bwcache.errors import SettingError, complaint
from bwcache.features import All, squared
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper, Table
from bwcache.policies.guarded import guard
from bwcache.policies.measuring import Measuring, settings_of, steps_of, unfit
from bwcache.policies.sites import added_by_all

Sensitivities = tuple[tuple[float, float, float], ...]
"""Timestep, |J_x| and |J_t|, for each of some times."""


@dataclass
class State:
    """One run: the branch that decides, where it was last computed, and what was decided last."""

    branch: str | None = None
    computed: float | None = None
    skipped: int = 0
    decided_at: int = -1
    decision: Decision = field(default_factory=lambda: compute("first step"))


@dataclass(frozen=True)
class SenCache(Policy[State]):
    """Replays all blocks while the output, as foretold from how far latents and time moved, hardly changes.

    Args:
        sensitivities: timestep, |J_x| (dimensionless) and |J_t| (of output, root mean square, for a unit of the
            timestep), for each of some times of the model.
        threshold: epsilon, of output, root mean square, >= 0. 0 never reuses.
        early: epsilon in the first fifth of the steps, >= 0.
        longest: n, at most so many steps are skipped in a row, >= 1.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="the latents and the time, in each step",
        verified="a second implementation, bit for bit; another in numpy",
        calibration="the sensitivities of the model",
        table=Table(
            ("sensitivities",),
            "model",
            "timesteps, J_x_norm and J_t_norm, as lists or arrays of numpy, and the entries of its latents",
            forwards=3,
            smallest=((0.0, 0.0, 0.0),),
        ),
        paper=Paper(
            title="SenCache: Accelerating Diffusion Model Inference via Sensitivity-Aware Caching",
            authors="Haghighi, Alahi",
            arxiv="2602.24208",
            venue="CVPR 2026",
        ),
    )

    sensitivities: Sensitivities
    threshold: float = 0.07  # epsilon
    early: float = 0.005
    longest: int = 3  # n

    def __post_init__(self) -> None:
        some = self.sensitivities if isinstance(self.sensitivities, (tuple, list)) else ()
        fine = len(some) > 0 and all(_is_row(row) for row in some)
        expected = "timestep, |J_x| and |J_t| for each of some times"
        expect(fine, "sensitivities", self.sensitivities, expected, "((900, 0.5, 0.001), (100, 0.9, 0.002))")
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.07")
        expect(number(self.early) and self.early >= 0, "early", self.early, "a number >= 0", "0.005")
        expect(whole(self.longest, 1), "longest", self.longest, "a whole number of steps >= 1", "3")

    probes = True  # the latents of this very step are what it looks at

    @property
    def may_reuse(self) -> bool:
        """Not with tolerances of 0."""
        return self.threshold > 0 or self.early > 0

    needs_total = True  # for the first fifth and the last step

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, by what they add."""
        return (added_by_all(stack),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """The latents, against the last computed step."""
        return (stack.tap(stack.root, end="in", view=All(), indicator=squared),) if self.may_reuse else ()

    def init(self) -> State:
        """No branch came by yet."""
        return State()

    def decide(self, observation: Observation, state: State) -> Decision:
        """Eq. 6 against epsilon; other branches than the first follow it."""
        step = observation.step
        if step.branch != state.branch:
            return state.decision if state.decided_at == step.index else compute("the branch that decides computes")
        state.decided_at, state.decision = step.index, self._decide(observation, state)
        state.skipped = state.skipped + 1 if state.decision.reuses else 0
        return state.decision

    def refresh(self, observation: Observation, state: State) -> None:
        """The branch that comes first decides; where it was computed is what later steps are held against."""
        state.branch = state.branch or observation.step.branch
        if observation.step.branch == state.branch:
            state.computed, state.skipped = observation.step.timestep, 0

    def _decide(self, seen: Observation, state: State) -> Decision:
        step, guarded = seen.step, guard(seen.step, 1, 1)
        if guarded is not None:
            return guarded
        if step.timestep is None or state.computed is None:
            return compute("timestep unknown")
        if state.skipped >= self.longest:
            return compute(f"longest window (after {self.longest} reused steps)")
        moved = seen.now[0]  # mean square
        if moved is None:
            return compute("nothing to compare with yet")
        early = step.index < round(0.2 * (step.total or 0))
        most = self.early if early else self.threshold
        to_latents, to_time = self.at(state.computed)
        change = to_latents * math.sqrt(max(moved, 0.0)) + to_time * abs(step.timestep - state.computed)
        if not math.isfinite(change):
            return compute("indicator is not finite", change)
        if change < most:
            return reuse(f"output hardly changes ({change:.4f} < {most:g})", change)
        return compute(f"output changes ({change:.4f} >= {most:g})", change)

    @classmethod
    def authors_table(cls, content: Any) -> dict[str, Any] | None:
        """Return the sensitivities of the lists `timesteps`, `J_x_norm` and `J_t_norm`.

        Raises:
            SettingError: it is not said of how many `entries` the latents were on which they were measured.
        """
        names = ("timesteps", "J_x_norm", "J_t_norm")
        lists: list[Any] = [content.get(name) for name in names] if isinstance(content, dict) else []
        if not lists or not all(isinstance(one, list) and one and all(map(is_number, one)) for one in lists):
            return None
        if len({len(one) for one in lists}) != 1:
            return None
        entries = content.get("entries")
        if not whole(entries, 1):
            found = "J_t_norm without the number of entries of the latents that it is a norm over"
            raise SettingError(complaint(found, "entries", "add it, such as 16 * 21 * 60 * 104 for 81 frames of Wan"))
        size = math.sqrt(entries)
        rows = zip(*lists, strict=True)
        return {"sensitivities": tuple((time, by_latents, by_time / size) for time, by_latents, by_time in rows)}

    @classmethod
    def measuring(cls) -> MeasuringSensitivities:
        """Return what records how far the output moves with the latents and with the time."""
        return MeasuringSensitivities()

    @classmethod
    def fitted(
        cls, traces: Sequence[Trace], threshold: float = 0.07, early: float = 0.005, longest: int = 3
    ) -> SenCache:
        """Return the policy with the sensitivities of these runs, the mean over them, of the branch that comes first.

        Raises:
            SettingError: runs of another kind, or of different numbers of steps, or of times that are not known.
        """
        found: dict[float, list[tuple[float, float]]] = {}
        for trace in traces:
            for before, event in _steps(trace):
                rates = _rates(before, event)
                if rates is not None and before.timestep is not None:
                    found.setdefault(before.timestep, []).append(rates)
        if steps_of(traces) is None or settings_of(traces, MeasuringSensitivities) is None or not found:
            raise unfit(traces, "runs of one number of steps under SenCache.measuring(), whose times are known")
        means = {time: [sum(some) / len(some) for some in zip(*each, strict=True)] for time, each in found.items()}
        return cls(tuple((time, mean[0], mean[1]) for time, mean in means.items()), threshold, early, longest)

    def at(self, timestep: float) -> tuple[float, float]:
        """Return |J_x| and |J_t| of the time in the table that is nearest; of two the first."""
        _, to_latents, to_time = min(self.sensitivities, key=lambda row: abs(row[0] - timestep))
        return to_latents, to_time


@dataclass(frozen=True)
class MeasuringSensitivities(Measuring):
    """Computes everything, and evaluates the denoiser twice more in each step but the first; see `SenCache`."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The denoiser itself."""
        return (stack.site(stack.root),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """How far the latents moved, what that makes of the output, and what the time makes of it: mean squares."""
        ends: tuple[Literal["in", "by latents", "by time"], ...] = ("in", "by latents", "by time")
        return tuple(stack.tap(stack.root, end=end, view=All(), indicator=squared) for end in ends)


def _steps(trace: Trace) -> Iterator[tuple[Event, Event]]:
    """Each two steps one after the other of the branch that comes first, sample by sample."""
    first = [event for event in trace.events if event.branch == trace.events[0].branch]
    for sample in dict.fromkeys(event.sample for event in first):
        yield from pairwise(event for event in first if event.sample == sample)


def _rates(before: Event, event: Event) -> tuple[float, float] | None:
    """|J_x| and |J_t| of the step before, as measured in the next one; None where that says nothing."""
    measured = event.distances or ()
    if len(measured) != 3 or not all(math.isfinite(each) and each >= 0 for each in measured):
        return None
    moved, by_latents, by_time = map(math.sqrt, measured)
    if before.timestep is None or event.timestep is None or not moved or before.timestep == event.timestep:
        return None
    return by_latents / moved, by_time / abs(event.timestep - before.timestep)


def _is_row(row: object) -> bool:
    numbers = row if isinstance(row, (tuple, list)) else ()
    return len(numbers) == 3 and all(map(is_number, numbers)) and min(numbers[1:]) >= 0
