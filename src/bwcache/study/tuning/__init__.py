"""What `bwcache tune` does: uncached runs, a table of damage, a plan, weights, and the proof on prompts not used."""

from bwcache.study.study import Video
from bwcache.study.tuning.ladder import Ladder, Rung, climb
from bwcache.study.tuning.recording import Recording, recorded
from bwcache.study.tuning.runs import Closeness, KeptRuns, Runs
from bwcache.study.tuning.tables import damage
from bwcache.study.tuning.tuning import BUDGET, Fit, Outcome, Proof, Search, Tuner, tune
from bwcache.study.tuning.videos import Videos
from bwcache.study.tuning.wish import Wish, wish

__all__ = [
    "BUDGET",
    "Closeness",
    "Fit",
    "KeptRuns",
    "Ladder",
    "Outcome",
    "Proof",
    "Recording",
    "Rung",
    "Runs",
    "Search",
    "Tuner",
    "Video",
    "Videos",
    "Wish",
    "climb",
    "damage",
    "recorded",
    "tune",
    "wish",
]
