"""``bwcache plan``: a list of steps, for people and for engines that take one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from bwcache.cli.choices import check_ranges
from bwcache.cli.output import check_file
from bwcache.cli.settings import PlanSettings
from bwcache.core.files import write_json
from bwcache.errors import SettingError, complaint

KIND = "bwcache-plan"
FORMAT = f"{KIND}-1"

MOST_STEPS = 1000
"""Of a plan: the work grows with the square of it, and no run has more."""

KEPT = (
    "Of each computed step k the estimate of the clean latents is kept: z_k = x_k - sigma_k v_k for a flow. In a "
    "reused step the denoiser is not called: what it would have returned is (x - z) / sigma, of the latents x of now. "
)
SUM = (
    "There z = w[0] z_(last computed) + w[1] z_(the one before) + ..., with the weights w of the last computed step, "
    "newest first."
)
LINE = (
    "There z goes from z_(last computed) on along the line through the last two, in the share of noise s: "
    "z = z_i + {length:g} t (z_i - z_p), t = (s - s_i) / (s_i - s_p), t at most {reach:g}; alone it is replayed."
)
BEYOND = (
    " In the window of a computed step i that stands in 'beyond' it is z = z_i + beyond[i] (z_i - z_p) instead: that "
    "makes up for what the window before missed."
)


def run_plan(settings: PlanSettings) -> None:
    """Print the plan, and export it where it is asked for."""
    check_ranges(settings)
    content = _of_file(settings) if settings.file is not None else _of_schedule(settings)
    target = None if settings.out is None else check_file(settings.out, settings.overwrite, KIND)
    if target is not None:
        write_json(target, content)
    for line in lines(content):
        print(line)
    if settings.out is not None:
        print(f"{settings.out} holds it as JSON")


def plan_of(schedule: Sequence[float], steps: Sequence[int], predictor: str) -> dict[str, Any]:
    """Return a list of steps with what an engine needs to follow it, ready for JSON."""
    return {
        "format": FORMAT,
        "steps": len(schedule) - 1,
        "computed": list(steps),
        "compute": [step in steps for step in range(len(schedule) - 1)],
        "noise": list(schedule),
        "predictor": predictor,
    }


def lines(content: dict[str, Any]) -> list[str]:
    """Return the plan for people."""
    total, computed, weights = content["steps"], content["computed"], content.get("weights")
    beyond = content.get("beyond", {})
    rows = []
    for step in computed:
        row = "" if weights is None else "  then " + " ".join(f"{weight:+.3f}" for weight in weights[str(step)])
        row = f"  then beyond by {beyond[str(step)]:.3f}" if str(step) in beyond else row
        rows.append(f"{step:>4}  noise {content['noise'][step]:.3f}{row}")
    return [
        f"{len(computed)} of {total} steps computed ({total / len(computed):.2f}x): {', '.join(map(str, computed))}",
        "".join("C" if each else "r" for each in content["compute"]),
        *rows,
        content["predictor"],
    ]


def _of_file(settings: PlanSettings) -> dict[str, Any]:
    from bwcache.policies.tuned_file import read_tuned

    given = [name for name in ("steps", "shift", "grade") if getattr(settings, name) is not None]
    if given:
        raise SettingError(complaint(f"--{given[0]} beside a tuned file", "one of them", "leave one out"))
    assert settings.file is not None
    file = read_tuned(settings.file)
    policy = file.policy
    return {
        **plan_of(policy.schedule, policy.steps, KEPT + SUM),
        "weights": {str(step): list(row) for step, row in zip(policy.steps, policy.rows, strict=True)},
        "made_for": dict(file.made_for),
        "quality": dict(file.quality),
    }


def _of_schedule(settings: PlanSettings) -> dict[str, Any]:
    """What `Planned` does on flow matching by Euler, for any model."""
    from bwcache.features import Bounded
    from bwcache.policies.grades import graded
    from bwcache.policies.planned import beyond_newest, plan

    if settings.steps is None:
        found = "neither a tuned file nor --steps"
        raise SettingError(complaint(found, "one of them", "try bwcache plan --steps 50 --shift 5"))
    shift = 1.0 if settings.shift is None else settings.shift
    if not 0 < shift <= 1000:
        raise SettingError(complaint(f"--shift {shift:g}", "more than 0, at most 1000", "try 5"))
    policy = graded(settings.grade or "balanced").policy
    if settings.steps > MOST_STEPS:
        found = f"--steps {settings.steps}"
        raise SettingError(complaint(found, f"at most {MOST_STEPS}, which a plan takes seconds for", "use fewer"))
    schedule = flow_schedule(settings.steps, shift)
    if not all(0 <= after <= before <= 1 for before, after in pairwise(schedule)):
        raise SettingError(complaint(f"--shift {shift:g}", "one whose noise falls from 1 to 0", "try 5"))
    steps, damage = plan(schedule, policy.tolerance)
    words = LINE.format(**dataclasses.asdict(policy.predictor)) if isinstance(policy.predictor, Bounded) else ""
    beyond = beyond_newest(schedule, steps) if policy.making_up else {}
    windows = {str(step - 1): far for step, far in beyond.items() if step - 1 in steps}
    content = {**plan_of(schedule, sorted(steps), KEPT + words + BEYOND * bool(windows)), "beyond": windows}
    made_for = {"scheduler": {"class": "FlowMatchEulerDiscreteScheduler", "settings": {"shift": shift}}}
    return {**content, "made_for": made_for, "foretold": round(damage, 5)}


def flow_schedule(steps: int, shift: float) -> tuple[float, ...]:
    """Return the shares of noise of flow matching, 1..0, as its scheduler in diffusers has them."""
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    with np.errstate(all="ignore"):  # who asks looks at what came of it
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(steps)
    return tuple(map(float, scheduler.sigmas))
