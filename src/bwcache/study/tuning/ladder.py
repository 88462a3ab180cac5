"""The same videos at several speeds around the chosen one, as far as the budget goes: for people to look at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bwcache.policies.tuned import Tuned
from bwcache.study.study import Video
from bwcache.study.tuning.runs import Closeness
from bwcache.study.tuning.tuning import Outcome, Tuner

SETTINGS = 8
"""On the ladder, where the budget goes so far."""
PAIR = 2
"""Videos that are shown: the worst, and of the others the one nearest to the mean."""


@dataclass(frozen=True)
class Rung:
    """One setting.

    Attributes:
        policy: of it.
        close: one for each video of the ladder.
    """

    policy: Tuned
    close: tuple[Closeness, ...]

    @property
    def psnr(self) -> float:
        """Mean PSNR."""
        return statistics.fmean(one.psnr for one in self.close)


@dataclass(frozen=True)
class Ladder:
    """Settings by rising speed.

    Attributes:
        videos: the worst of the proof, the one nearest to its mean, then the others that all settings were run on.
        rungs: the chosen setting among them.
    """

    videos: tuple[Video, ...]
    rungs: tuple[Rung, ...]


def climb(tuner: Tuner, outcome: Outcome) -> Ladder:
    """Run the ladder around a plan that was proved, on its videos: on all of them, or on two where that is too much."""
    videos = worst_first(outcome)
    chosen = len(outcome.policy.steps)
    counts = spread(tuner.counts, chosen, tuner.runs.left / len(videos))
    if len(counts) < min(SETTINGS, len(tuner.counts)):
        videos = videos[:PAIR]
        counts = spread(tuner.counts, chosen, tuner.runs.left / PAIR)
    rungs = []
    for count in sorted(counts, reverse=True):
        policy = outcome.policy if count == chosen else tuner.policy(count)
        what = f"for the page, {count} steps computed"
        rungs.append(Rung(policy, tuple(tuner.runs.shown(video, policy, what) for video in videos)))
    return Ladder(videos, tuple(rungs))


def worst_first(outcome: Outcome) -> tuple[Video, ...]:
    """Return the videos of the proof: the worst, the one nearest to the mean, the others."""
    of = dict(zip(outcome.proved, outcome.proof.psnr, strict=True))
    worst = min(of, key=lambda video: of[video])
    others = sorted((video for video in of if video != worst), key=lambda video: abs(of[video] - outcome.proof.mean))
    return worst, *others


def spread(counts: Sequence[int], chosen: int, steps: float, settings: int = SETTINGS) -> list[int]:
    """Return numbers of computed steps around the chosen one, ascending: from half of it to twice as many.

    Args:
        counts: those there are.
        chosen: one of them.
        steps: that may be computed for each video. Where they do not go so far the slow side is shortened, and then
            there are fewer settings.
        settings: how many numbers, at most.
    """
    slowest = min(max(counts), max(2 * chosen, chosen // 2 + settings))
    for most in range(slowest, chosen - 1, -1):
        least = max(min(counts), min(math.ceil(chosen / 2), most - settings + 1))
        found = evenly([count for count in counts if least <= count <= most], chosen, settings)
        if sum(found) - chosen <= steps:
            return found
    return spread(counts, chosen, steps, settings - 1) if settings > 2 else [chosen]


def evenly(counts: Sequence[int], chosen: int, settings: int) -> list[int]:
    """Return so many of these numbers, evenly by their logarithm: the chosen one, and of more than two both ends."""
    if len(counts) <= settings:
        return list(counts)
    low, high = math.log(counts[0]), math.log(counts[-1])
    left, found = set(counts), set[int]()
    for place in range(settings):
        wanted = low + (high - low) * place / (settings - 1)
        nearest = min(left, key=lambda count: abs(math.log(count) - wanted))
        found.add(nearest)
        left.remove(nearest)
    if chosen not in found:
        inner = found - {counts[0], counts[-1]} or found
        found.remove(min(inner, key=lambda count: abs(math.log(count) - math.log(chosen))))
        found.add(chosen)
    return sorted(found)
