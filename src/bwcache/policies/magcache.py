"""MagCache: Fast Video Generation with Magnitude-Aware Cache.

Ma, Wei, Wang, Zhang, Tian; arXiv 2506.09045, NeurIPS 2025. Training-free, calibrated. Symbols of the paper: r[t] what
all blocks add to their input at step t, gamma[t] its magnitude ratio, delta the threshold, K the longest skip, R the
share of the run that is retained.

1. gamma[t] = mean over the tokens of |r[t]|_2 / |r[t-1]|_2 hardly depends on the prompt: one uncached run tells it for
   all steps (Sec. 3.2, 3.3).
2. What is replayed m steps after it was computed is off by |1 - gamma[t-m+1] * ... * gamma[t]|, and these errors are
   added up (Eq. 8).
3. While the sum is not above delta and at most K steps in a row were skipped, r of the last computed step is added to
   the input. Else all blocks are computed, and product, sum and count start anew.
4. The first R * T steps, rounded half up, are computed, and nothing is counted there.

A table of another number of steps is stretched: each step takes the nearest entry of the table, as in the paper's code.

Readings: one table holds for all guidance branches, of which each counts for itself; the sum may equal delta, as in
diffusers. The first of the ratios is 1: nothing was before it.

Nothing is measured in a run, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bwcache.core import Decision, Trace, compute, reuse
from bwcache.core.kinds import is_number
from bwcache.features import All, magnitude_ratio
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper, Table
from bwcache.policies.measuring import Measuring, settings_of, steps_of, unfit
from bwcache.policies.published import CODE, Published
from bwcache.policies.sites import added_by_all

FLUX = (
    *(1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125, 1.02344, 0.98047, 1.01562),
    *(1.00781, 1.0, 1.00781, 1.0, 1.00781, 1.0, 1.0, 0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703, 0.93359),
    0.89062,
)
"""gamma of FLUX.1-dev over 28 steps, as published."""

RATIOS = f"{CODE}; its ratios are not here: bwcache calibrate MagCache"

PUBLISHED: Mapping[str, Published] = {
    "FLUX.1-dev, 28 steps": Published({"ratios": FLUX}),
    "Wan2.1-T2V-1.3B": Published({"threshold": 0.12, "longest": 2, "retention": 0.2}, RATIOS),
    "Wan2.1-T2V-1.3B fast": Published({"threshold": 0.12, "longest": 4, "retention": 0.2}, RATIOS),
    "Wan2.1-T2V-14B": Published({"threshold": 0.24, "longest": 6, "retention": 0.2}, RATIOS),
    "HunyuanVideo": Published({"threshold": 0.24, "longest": 6, "retention": 0.2}, RATIOS),
}
"""By checkpoint: the settings of the authors' scripts."""


@dataclass
class Skipped:
    """Since a lane was last computed: the product of the ratios, the sum of the errors, and how many steps."""

    ratio: float = 1.0
    error: float = 0.0
    steps: int = 0


Lanes = dict[tuple[str, str], Skipped]


@dataclass(frozen=True)
class MagCache(Policy[Lanes]):
    """Replays all blocks while the errors that a table of ratios foretells add up to little.

    Args:
        ratios: gamma for each step, 1 first, dimensionless; from `fitted`, or published for the model. 1 alone
            foretells no error: then K steps are skipped and one is computed.
        threshold: delta, dimensionless, >= 0; .12 for Wan 2.1 1.3B, .24 for 14B and HunyuanVideo, .06 in diffusers.
        longest: K, at most so many steps are skipped in a row, >= 0; 2 to 6 in the paper. 0 never reuses.
        retention: R, share of the steps that are computed at the beginning, 0..1.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="nothing",
        verified="diffusers' hook, bit for bit",
        calibration="the ratios of the model",
        table=Table(
            ("ratios",),
            "schedule",
            "a list of ratios, 1 first; 1 twice, where two branches take turns",
            smallest=(1.0,),
        ),
        paper=Paper(
            title="MagCache: Fast Video Generation with Magnitude-Aware Cache",
            authors="Ma, Wei, Wang, Zhang, Tian",
            arxiv="2506.09045",
            venue="NeurIPS 2025",
        ),
    )

    ratios: tuple[float, ...]  # gamma
    threshold: float = 0.06  # delta
    longest: int = 3  # K
    retention: float = 0.2  # R

    def __post_init__(self) -> None:
        some = self.ratios if isinstance(self.ratios, (tuple, list)) else ()
        fine = len(some) > 0 and all(is_number(each) and each > 0 for each in some)
        expect(fine, "ratios", self.ratios, "a ratio > 0 for each step", "those of MagCache.fitted")
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.06")
        expect(whole(self.longest, 0), "longest", self.longest, "a whole number of steps >= 0", "3")
        expect(number(self.retention) and 0 <= self.retention <= 1, "retention", self.retention, "a share 0..1", "0.2")

    @property
    def may_reuse(self) -> bool:
        """Not where no step may be skipped."""
        return self.longest > 0 and self.retention < 1

    needs_total = True  # for the retained steps, and to stretch the table

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, by what they add."""
        return (added_by_all(stack),)

    def init(self) -> Lanes:
        """Nothing was skipped yet."""
        return {}

    def decide(self, observation: Observation, state: Lanes) -> Decision:
        """Eq. 8 against delta, and the steps against K."""
        step, total = observation.step, observation.step.total or 0
        skipped = state.pop(_lane(observation), Skipped())
        retained = int(self.retention * total + 0.5)
        if step.index < retained:
            return compute(f"warm-up (the first {retained} steps{self._stretched(total)})")
        skipped.steps += 1
        skipped.ratio *= self.ratio(step.index, total)
        skipped.error += abs(1 - skipped.ratio)
        if skipped.steps > self.longest:
            return compute(f"longest window (after {self.longest} reused steps)", skipped.error)
        if not skipped.error <= self.threshold:
            return compute(f"errors foretold add up ({skipped.error:.4f} > {self.threshold:g})", skipped.error)
        state[_lane(observation)] = skipped
        figures = f"{skipped.error:.4f} <= {self.threshold:g}{self._stretched(total)}"
        return reuse(f"little error foretold ({figures})", skipped.error)

    def _stretched(self, total: int) -> str:
        """What to say where the table is of another number of steps."""
        count = len(self.ratios)
        return "" if count in (1, total) else f"; by the ratios of {count} steps, stretched"

    def refresh(self, observation: Observation, state: Lanes) -> None:
        """What is computed, for whatever reason, begins the count anew."""
        state.pop(_lane(observation), None)

    def ratio(self, index: int, total: int) -> float:
        """Return gamma at a step of a run of so many steps: of the nearest entry of the table, halves to the even."""
        if total == len(self.ratios):
            return self.ratios[min(index, total - 1)]
        at = len(self.ratios) - 1 if total <= 1 else round(index * (len(self.ratios) - 1) / (total - 1))
        return self.ratios[min(at, len(self.ratios) - 1)]

    @classmethod
    def authors_table(cls, content: Any) -> dict[str, Any] | None:
        """Return the ratios of a list such as the paper's code has: with the ones that it puts before what it measured.

        One 1 begins the list of a single branch. Two begin one in which two branches take turns: there the mean of both
        is taken, since here one table holds for all.
        """
        if not isinstance(content, list) or not content or not all(map(is_number, content)) or content[0] != 1:
            return None
        if len(content) > 3 and len(content) % 2 == 0 and content[1] == 1:
            return {"ratios": tuple((a + b) / 2 for a, b in zip(content[::2], content[1::2], strict=True))}
        return {"ratios": tuple(content)}

    @classmethod
    def measuring(cls) -> MeasuringMagnitude:
        """Return what records gamma."""
        return MeasuringMagnitude()

    @classmethod
    def fitted(
        cls, traces: Sequence[Trace], threshold: float = 0.06, longest: int = 3, retention: float = 0.2
    ) -> MagCache:
        """Return the policy with the ratios of these runs, the mean over them and their guidance branches.

        Raises:
            SettingError: runs of another kind, or of different numbers of steps.
        """
        total = steps_of(traces)
        if total is None or settings_of(traces, MeasuringMagnitude) is None:
            raise unfit(traces, "runs of one number of steps under MagCache.measuring()")
        found: dict[int, list[float]] = {}
        for trace in traces:
            for event in trace.events:
                if event.distances and event.distances[0] > 0:
                    found.setdefault(event.step, []).append(event.distances[0])
        ratios = tuple(sum(some) / len(some) if (some := found.get(i)) else 1.0 for i in range(total))
        return cls(ratios, threshold, longest, retention)


@dataclass(frozen=True)
class MeasuringMagnitude(Measuring):
    """Computes everything, and compares the magnitude of what all blocks add with the step before; see `MagCache`."""

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """What all blocks add, token by token."""
        site = added_by_all(stack)
        how = {"end": "residual", "since": site.since or site.first, "view": All(), "indicator": magnitude_ratio}
        return (stack.tap(site.last, **how),)


def _lane(observation: Observation) -> tuple[str, str]:
    return (observation.denoiser, observation.step.lane)
