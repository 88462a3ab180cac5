"""The one place that decides, before anything runs: for each sample of a batch, and each site.

Where there is any doubt the answer is to compute, and the policy is not asked. A policy that `probes` looks at what the
forward itself measured: it is asked when the site is reached, by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Decision, Step
from bwcache.core.decision import compute
from bwcache.engine import reasons
from bwcache.engine.batch import BatchLayout
from bwcache.engine.lane import Lane
from bwcache.engine.plan import Plan
from bwcache.engine.run import Run
from bwcache.models import BlockStack, Site
from bwcache.policies import Observation, Readings

Decided = Mapping[str, tuple[Decision, ...]]
"""By site, one decision for each lane; without the sites that lie in a reused one."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What is known of a call of the denoiser before anything runs.

    Attributes:
        latents: shape, dtype and device of the latents, of one lane.
        gradient: whether a gradient is being recorded.
        filling: the sign that it fills a cache of the model's own, or None.
        doubt: why nothing older may be used, as the clock says, or None.
    """

    latents: object = None
    gradient: bool = False
    filling: str | None = None
    doubt: str | None = None

    @classmethod
    def of(
        cls, stack: BlockStack, args: tuple[Any, ...], kwargs: dict[str, Any], rows: BatchLayout, doubt: str | None
    ) -> Arguments:
        """Return what is known of a call."""
        latents = stack.latents(args, kwargs)
        kind: object = type(latents)
        if isinstance(latents, Tensor):
            cast = latents.device.type
            size = rows.at(0).size(latents.shape)
            kind = (size, latents.dtype, latents.device, torch.is_autocast_enabled(cast))
        return cls(kind, _records_gradient(stack, args, kwargs), stack.filling(args, kwargs), doubt)


def _records_gradient(stack: BlockStack, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not torch.is_grad_enabled():
        return False
    flows = any(isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values()))
    return flows or any(parameter.requires_grad for parameter in stack.module.parameters())


@dataclass(frozen=True, slots=True)
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


def decide(run: Run, plan: Plan, step: Step, rows: BatchLayout, arguments: Arguments) -> list[Group]:
    """Return the lanes of a forward by what they decide, those that compute most first."""
    single = len(rows) == 1
    steps = rows.steps(step)
    lanes = [run.lane(own, plan.stack.name) for own in steps]
    if arguments.doubt is not None:
        for lane in lanes:
            lane.forget()
    run.resolve_before(step)
    if plan.policy.probes:
        return [Group(tuple(steps), tuple(lanes), None)]
    asked: dict[tuple[str, ...], list[tuple[int, Step, Lane, dict[str, Decision]]]] = {}
    for i, (own, lane) in enumerate(zip(steps, lanes, strict=True)):
        found = _decisions(run, plan, own, lane, arguments)
        actions = tuple(f"{site} {decision.action}" for site, decision in found.items())
        asked.setdefault(actions if not single else (), []).append((i, own, lane, found))
    groups = []
    for alike in asked.values():
        ordinals, some_steps, some_lanes, found_by_lane = zip(*alike, strict=True)
        decided = {site: tuple(found[site] for found in found_by_lane) for site in found_by_lane[0]}
        groups.append(Group(some_steps, some_lanes, decided, ordinals))
    return groups if single else sorted(groups, key=_reused)


def _reused(group: Group) -> int:
    return sum(decisions[0].reuses for decisions in (group.decided or {}).values())


def _decisions(run: Run, plan: Plan, step: Step, lane: Lane, arguments: Arguments) -> dict[str, Decision]:
    found: dict[str, Decision] = {}
    for site in plan.sites:
        outer = plan.outer[site.name]
        if all(name in found and not found[name].reuses for name in outer):
            found[site.name] = decision(run, plan, step, lane, site, arguments)
    return found


def decision(
    run: Run,
    plan: Plan,
    step: Step,
    lane: Lane,
    site: Site,
    arguments: Arguments,
    look: Callable[[], Readings] | None = None,
) -> Decision:
    """Return what is done at one site in one lane."""
    doubt = _doubt(run, plan, step, lane, site, arguments)
    if doubt is not None:
        return compute(doubt)
    error = run.error(step, plan.where[site.name])
    observation = Observation(step, site.name, lane.last, error, plan.stack.name, look, site.first.kind)
    return run.policy.decide(observation, run.state)


def _doubt(run: Run, plan: Plan, step: Step, lane: Lane, site: Site, arguments: Arguments) -> str | None:
    """Why nothing kept may be used, or None."""
    if arguments.gradient and plan.holds:
        return reasons.GRADIENT
    if arguments.filling is not None and plan.keeps:
        return f"{reasons.FILLS_CACHE} ({arguments.filling})"
    if lane.refused is not None:
        return lane.refused
    if not plan.keeps:
        return reasons.NEVER
    if step.total is None and run.policy.needs_total:
        return reasons.TOTAL_UNKNOWN
    if arguments.doubt is not None:
        return arguments.doubt
    nothing = lane.nothing_kept(site.name, step, plan.stack.name)
    if nothing is not None:
        return nothing
    return reasons.ANOTHER_SHAPE if lane.latents != arguments.latents else None
