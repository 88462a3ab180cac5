"""What `bwcache tune` does: uncached runs, a table of damage, a plan, weights, and the proof on prompts not used."""

from bwcache.study.study import Video
from bwcache.study.tuning.planning import Plan, plans
from bwcache.study.tuning.recording import Recording, recorded
from bwcache.study.tuning.tables import damage
from bwcache.study.tuning.tuning import Outcome, tune
from bwcache.study.tuning.wish import Wish, wish

__all__ = ["Outcome", "Plan", "Recording", "Video", "Wish", "damage", "plans", "recorded", "tune", "wish"]
