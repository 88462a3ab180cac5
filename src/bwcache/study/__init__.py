"""Many runs of one model under many settings, kept cell by cell, so that a run that is finished is never repeated.

methods     what takes part: a policy, fewer steps
peers       caches of other libraries, each in a file of its own
blocks      how much of the blocks' work a call really did, counted from outside
solvers     the multistep solvers that fewer steps are tried with too
folder      the results on disk: a cell per run, the uncached videos by what they depend on
fingerprint what a model holds, to know it again
study       methods on videos; runs what is missing, uncached and cached calls beside each other
profile     a model watched while it computes everything: profile_curves, profile_times, profile_results
results     means, worst videos, confidence intervals, Pareto fronts, the speedup at a given PSNR
"""

from typing import TYPE_CHECKING, Any

from bwcache.former_names import exported
from bwcache.study.folder import Cell, Folder
from bwcache.study.methods import FewerSteps, Method, Seen, UnderPolicy
from bwcache.study.results import Result, front, results, speedup_at
from bwcache.study.study import Study, Video, run_study

__all__ = [
    "Cell",
    "FewerSteps",
    "Folder",
    "Method",
    "Result",
    "Seen",
    "Study",
    "UnderPolicy",
    "Video",
    "front",
    "results",
    "run_study",
    "speedup_at",
]

if not TYPE_CHECKING:  # which is to miss no misspelled name

    def __getattr__(name: str) -> Any:
        return exported(__name__, name)
