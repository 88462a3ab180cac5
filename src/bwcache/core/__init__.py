"""Where we are, what was decided and what happened. Standard library only."""

from bwcache.core.decision import Action, Decision, check, compute, reuse
from bwcache.core.step import Step
from bwcache.core.trace import Event, Summary, Trace

__all__ = ["Action", "Decision", "Event", "Step", "Summary", "Trace", "check", "compute", "reuse"]
