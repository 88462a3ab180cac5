"""What `bwcache tune` makes for one model in one regime: plans of so many computed steps, with their weights.

They are made of few videos, none of which is run again later. What is proved of them is proved by the race.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from benchmarks.race.choice import LEVELS
from bwcache import Tuned
from bwcache.measure.call import Request
from bwcache.study import Folder, Result, Video
from bwcache.study.tuning import BUDGET, Tuner, Videos

if TYPE_CHECKING:
    from benchmarks.race.race import Race

MADE_OF, UNUSED = range(64, 70), range(70, 72)
"""Places of captions: of the videos that plans are made of, as many as `bwcache tune --calibrate 6 --verify 2` makes of
50 steps within its budget; and of those that would prove one there, which are not made here."""

COMPUTED: Mapping[int, tuple[int, ...]] = {30: (5, 6, 7, 8, 9, 10), 50: (6, 7, 8, 9, 10, 12)}
"""Numbers of steps that plans are made for, by the steps of a run."""


@dataclass(frozen=True)
class Plan:
    """One number of computed steps.

    Attributes:
        policy: of it.
        expected: mean PSNR in dB on the videos that it was made of, each with weights by the others.
    """

    policy: Tuned
    expected: float


def plans(pipe: Any, request: Callable[[int], Request], counts: Sequence[int], folder: Folder) -> list[Plan]:
    """Return a plan for each number of computed steps.

    Args:
        pipe: the model in its regime.
        request: of the video at a place.
        counts: computed steps.
        folder: where runs are kept.
    """
    made_of, unused = (tuple(Video(request(place).prompt, place) for place in some) for some in (MADE_OF, UNUSED))
    budget = BUDGET * len(counts)  # each number may take a tuning's work
    tuner = Tuner(pipe, request(MADE_OF[0]), Videos(made_of, unused), folder, budget, say=tqdm.write)
    return [Plan(tuner.policy(fit.count), round(fit.mean, 2)) for fit in tuner.fits(counts)]


def plans_for(race: Race) -> list[Plan]:
    """Return those for a race's model in its regime, made once."""
    folder = Folder(race.folder.path / "tuning", race.folder.identity)
    return plans(race.pipe, race.request, race.lengths.computed or COMPUTED[race.steps], folder)


def wished(rows: Sequence[Result]) -> dict[str, Result]:
    """Return plans by what is asked for: the fastest one that is expected to be as good as each of `LEVELS`."""
    found = {}
    for level in LEVELS:
        fine = [row for row in rows if row.settings["expected"] >= level]
        if fine:
            found[f"tuned for {level:g} dB"] = min(fine, key=lambda row: row.compute or 0.0)
    return found
