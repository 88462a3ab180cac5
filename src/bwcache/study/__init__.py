"""Many runs of one model under many settings, kept cell by cell, so that a run that is finished is never repeated.

contenders  what takes part: a policy, fewer steps
peers       caches of other libraries, each in a file of its own
blocks      how much of the blocks' work a call really did, counted from outside
solvers     the multistep solvers that fewer steps are tried with too
folder      the results on disk: a cell per run, the uncached videos by what they depend on
fingerprint what a model holds, to know it again
race        runs what is missing, uncached and cached calls beside each other
profile     a model watched while it computes everything: profile_curves, profile_times, profile_results
standings   means, worst videos, confidence intervals, Pareto fronts, the speedup at a given PSNR
"""

from bwcache.study.contenders import Contender, FewerSteps, Seen, UnderPolicy
from bwcache.study.folder import Cell, Folder
from bwcache.study.race import Race, Unit, race
from bwcache.study.standings import Standing, front, speedup_at, standings

__all__ = [
    "Cell",
    "Contender",
    "FewerSteps",
    "Folder",
    "Race",
    "Seen",
    "Standing",
    "UnderPolicy",
    "Unit",
    "front",
    "race",
    "speedup_at",
    "standings",
]
