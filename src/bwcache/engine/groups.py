"""The samples of a batch, by what they decide."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bwcache.core import Decision, Step
from bwcache.core.decision import compute
from bwcache.engine.plan import Plan
from bwcache.engine.run import RunState
from bwcache.engine.samples import Rows
from bwcache.policies import Observation


@dataclass(frozen=True)
class Group:
    """Samples that run in one forward: where each stands, and what was decided for it; None: not asked yet."""

    steps: tuple[Step, ...]
    decided: tuple[Decision, ...] | None = None

    @property
    def samples(self) -> list[int]:
        """Their ordinals in the batch."""
        return [step.sample or 0 for step in self.steps]


def grouped(run: RunState, plan: Plan, step: Step, rows: Rows) -> list[Group]:
    """The groups of a batch, those that compute first; one where there is only one sample."""
    if rows.samples == 1:
        run.visit(step)
        return [Group((step,))]
    site = next(place.site for place in plan.places if place.site is not None)
    run.resolve_before(step)
    asked: dict[str, list[tuple[Step, Decision]]] = {"compute": [], "reuse": []}
    for sample in range(rows.samples):
        own = replace(step, sample=sample)
        run.visit(own)
        doubt = run.nothing_kept(own, (own.lane, f"{plan.stack.name}/{site.name}"))
        decision = compute(doubt) if doubt else run.policy.decide(Observation(own, site.name), run.state)
        asked[decision.action].append((own, decision))
    return [Group(*map(tuple, zip(*some, strict=True))) for some in asked.values() if some]
