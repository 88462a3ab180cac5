"""The one place that decides, before anything runs: for each sample of a batch, and each site.

Where there is any doubt the answer is to compute, and the policy is not asked. A policy that `probes` looks at what the
forward itself measured: it is asked when the site is reached, by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bwcache.core import Decision, Step
from bwcache.engine import reasons
from bwcache.engine.batch import BatchLayout
from bwcache.engine.clock import Call
from bwcache.engine.lane import Lane
from bwcache.engine.plan import Plan
from bwcache.engine.run import Run
from bwcache.models import Site
from bwcache.policies import Observation, Readings

Decided = Sequence[Mapping[str, Decision]]
"""For each lane what is decided by site; without the sites that lie in a reused one."""


@dataclass(eq=False, slots=True)
class Group:
    """Lanes that run in one forward.

    Attributes:
        steps, lanes: one for each.
        ordinals: which of the forward's lanes they are.
        decided: what was decided; None: each site is asked when it is reached.
    """

    steps: tuple[Step, ...]
    lanes: tuple[Lane, ...]
    decided: Decided | None
    ordinals: tuple[int, ...] = (0,)


def decide(run: Run, plan: Plan, step: Step, rows: BatchLayout, call: Call) -> list[Group]:
    """Return the lanes of a forward by what they decide, those first that compute most; what is made of others last."""
    steps = (step,) if rows.is_whole else rows.steps(step)
    call.kind = _kind(call.latents, rows) if plan.keeps else None
    lanes = []
    for own in steps:
        lanes.append(run.lane(own, plan.stack.name))
        if call.doubt is not None:
            lanes[-1].forget()
    if run.pending and run.pending[0].step.index != step.index:
        run.resolve()  # once per step: what other branches measured in this same step is for the next one
        if run.together is not None and run.together.hear():
            run.invalidate()
    if plan.probes:
        if run.votes is not None:
            run.votes.agree(plan, [])
        return [Group(steps, tuple(lanes), None)]
    decided: list[Mapping[str, Decision]] = []
    for own, lane in zip(steps, lanes, strict=True):
        decided.append(plan.never or _decisions(run, plan, own, lane, call))
    if run.votes is not None:
        return [Group(steps, tuple(lanes), run.votes.agree(plan, decided), tuple(range(len(lanes))))]
    if len(lanes) == 1:
        return [Group(steps, tuple(lanes), decided)]
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, found in enumerate(decided):
        alike.setdefault(tuple(f"{site} {each.action} {each.at}" for site, each in found.items()), []).append(i)
    return sorted(
        (
            Group(tuple(steps[i] for i in some), tuple(lanes[i] for i in some), [decided[i] for i in some], tuple(some))
            for some in alike.values()
        ),
        key=lambda group: _turn(plan, (group.decided or [{}])[0]),
    )


def _turn(plan: Plan, decided: Mapping[str, Decision]) -> tuple[bool, int]:
    """When a group of a forward runs: what is made of another branch after that, else the more it reuses the later."""
    made_of_another = any(site.beside and site.name in decided and decided[site.name].reuses for site in plan.sites)
    return made_of_another, sum(each.reuses for each in decided.values())


def _kind(latents: Tensor | None, rows: BatchLayout) -> object:
    """Shape, dtype and device of the latents of one lane, and whether torch casts there."""
    if latents is None:
        return None
    size = latents.shape if rows.is_whole else rows.at(0).size(latents.shape)
    return size, latents.dtype, latents.device, torch.is_autocast_enabled(latents.device.type)


def _decisions(run: Run, plan: Plan, step: Step, lane: Lane, call: Call) -> dict[str, Decision]:
    found: dict[str, Decision] = {}
    for site in plan.sites:
        for name in plan.outer[site.name]:
            if name not in found or found[name].action == "reuse":
                break
        else:
            found[site.name] = decision(run, plan, step, lane, site, call)
    return found


def decision(
    run: Run,
    plan: Plan,
    step: Step,
    lane: Lane,
    site: Site,
    call: Call,
    look: Callable[[], Readings] | None = None,
) -> Decision:
    """Return what is done at one site in one lane."""
    doubt = _doubt(run, plan, step, lane, site, call)
    if doubt is not None:
        return Decision("compute", doubt)
    error = run.errors.get((step.sample, plan.where[site.name]))
    observation = Observation(step, site.name, lane.last, error, plan.stack.name, look, site.first.kind)
    found = run.policy.decide(observation, run.state)
    if run.together is not None and run.together.waits_to_forget and found.reuses:
        return replace(found, reason=reasons.TOLD_ALONE)
    return found


def _doubt(run: Run, plan: Plan, step: Step, lane: Lane, site: Site, call: Call) -> str | None:
    """Why nothing kept may be used, or None."""
    if plan.holds and torch.is_grad_enabled() and call.gradient:
        return reasons.GRADIENT
    if plan.stack.fillings and plan.keeps:
        filling = plan.stack.filling(call.args, call.kwargs)
        if filling is not None:
            return f"{reasons.FILLS_CACHE} ({filling})"
    if lane.refused is not None:
        return lane.refused
    if not plan.keeps:
        return reasons.NEVER
    if step.total is None and plan.needs_total:
        return reasons.TOTAL_UNKNOWN
    if call.doubt is not None:
        return call.doubt
    if site.keeps == "clean" and (call.level is None or not call.level.says_data):
        return reasons.LEVEL_UNKNOWN
    if site.beside is not None:
        if step.branch == site.beside:
            return reasons.STANDS_BESIDE
        other = run.lanes.get((site.beside, step.sample))
        if other is None or other.visited != step.index:
            return reasons.NOBODY_BESIDE
    slot = lane.slots.get(site.name)
    if slot is None or not slot.past:
        return lane.nothing_kept(site.name, step, plan.stack.name)
    if run.votes is not None and lane.shapes != call.shapes:
        return reasons.ANOTHER_SHAPE  # what enters a site is seen too late for a vote
    return reasons.ANOTHER_SHAPE if lane.latents != call.kind else None
