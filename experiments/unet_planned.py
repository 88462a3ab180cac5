"""Experiment 26: planned lists on a video U-Net, which predicts noise under a schedule of variances.

Beside `Planned`'s list stands one that is planned from the model's own uncached runs of other videos.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import bwcache
from bwcache import Bounded, StepList
from bwcache.measure.call import call
from bwcache.models import BlockStack, Site, resolve
from bwcache.study import FewerSteps, UnderPolicy
from bwcache.study.peers.ladders import Called
from bwcache.study.tuning.recording import recorded
from experiments.clean import own_list
from experiments.common import captions, kept, publish, request, result_rows, study
from training.models import UNET_FRAMES, load_unet

COMPUTED = (6, 8, 10)
OTHERS = range(64, 67)
"""Places of the captions that lists are planned from."""
VIDEOS = 6
TOLERANCES = (0.01, 0.02, 0.04)


@dataclass(frozen=True)
class CleanList(StepList):
    """The steps of a list, with the clean estimate kept."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The denoiser itself."""
        return (stack.site(stack.root, keeps="clean"),)


def main() -> None:
    """Runs and writes it."""
    pipe = load_unet()
    pipe.set_progress_bar_config(disable=True)
    own = kept("unet_planned", pipe, ["own lists"], partial(own_lists, pipe))
    methods = [
        *[UnderPolicy(bwcache.Planned(computed=n), ("computed",)) for n in COMPUTED],
        *[Called(CleanList(tuple(own[str(n)]), Bounded()), ("steps",), "own list") for n in COMPUTED],
        *[UnderPolicy(bwcache.Adaptive(tolerance=t), ("tolerance",)) for t in TOLERANCES],
        *[FewerSteps(n) for n in COMPUTED],
    ]
    _, rows = study("unet_planned_videos", methods, VIDEOS, pipe=pipe, frames=UNET_FRAMES)
    publish("unet_planned", {"own": own, "rows": [row.to_json() for row in rows]}, pipe, result_rows(rows))


def own_lists(pipe: Any) -> dict[str, Any]:
    """Planned from uncached runs of other videos."""
    spec, runs = resolve("unet", pipe.unet).spec, []
    for caption in captions(OTHERS.stop)[OTHERS.start :]:
        with recorded(pipe, spec) as found:
            call(pipe, dataclasses.replace(request(caption.text, seed=OTHERS.start), frames=UNET_FRAMES))
        runs += found
    return {str(n): own_list(runs, n) for n in COMPUTED}


if __name__ == "__main__":
    main()
