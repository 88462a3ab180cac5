"""``bwcache plan``: the list of steps of a tuned file, for people and for engines that take a list."""

from __future__ import annotations

from typing import Any

from bwcache.cli.output import absolute
from bwcache.cli.settings import PlanSettings
from bwcache.core.files import write_json
from bwcache.errors import SettingError, complaint

FORMAT = "bwcache-plan-1"

PREDICTOR = (
    "Of each computed step k the estimate of the clean latents is kept: z_k = x_k - sigma_k v_k for a flow. In a "
    "reused step the denoiser is not called: its estimate is z = w[0] z_(last computed) + w[1] z_(the one before) + "
    "..., with the weights w of the last computed step, and what it would have returned is (x - z) / sigma, from the "
    "latents x of now."
)


def run_plan(settings: PlanSettings) -> None:
    """Print the plan, and export it where it is asked for."""
    from bwcache.policies.tuned_file import read_tuned

    file = read_tuned(settings.file)
    content = plan_of(file)
    if settings.out is not None:
        target = absolute(settings.out)
        if target.exists() and not settings.overwrite:
            found = f"a file at --out {str(settings.out)!r}"
            raise SettingError(complaint(found, "none yet", "add --overwrite or name another"))
        write_json(target, content)
    for line in lines(file, content):
        print(line)
    if settings.out is not None:
        print(f"{settings.out} holds it as JSON")


def plan_of(file: Any) -> dict[str, Any]:
    """Return the list of steps with what an engine needs to follow it, ready for JSON."""
    policy = file.policy
    return {
        "format": FORMAT,
        "steps": len(policy.schedule) - 1,
        "computed": list(policy.steps),
        "compute": [step in policy.steps for step in range(len(policy.schedule) - 1)],
        "weights": {str(step): list(row) for step, row in zip(policy.steps, policy.rows, strict=True)},
        "noise": list(policy.schedule),
        "predictor": PREDICTOR,
        "made_for": dict(file.made_for),
        "quality": dict(file.quality),
    }


def lines(file: Any, content: dict[str, Any]) -> list[str]:
    """Return the plan for people."""
    policy = file.policy
    total, count = content["steps"], len(policy.steps)
    rows = [
        f"{step:>4}  noise {policy.schedule[step]:.3f}  then {' '.join(f'{weight:+.3f}' for weight in row)}"
        for step, row in zip(policy.steps, policy.rows, strict=True)
    ]
    return [
        f"{count} of {total} steps computed ({total / count:.2f}x): {', '.join(map(str, policy.steps))}",
        "".join("C" if computed else "r" for computed in content["compute"]),
        "step  share of noise, and the weights of the last estimates in the reused steps after it, newest first:",
        *rows,
        PREDICTOR,
    ]
