"""The multistep solvers that caching must beat too: made from a pipeline's own scheduler, for the same equation.

UniPC (Zhao et al. 2023, arXiv 2302.04867) and DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095), both by diffusers,
with the pipeline's own prediction type, noise schedule and shift. At the full number of steps each of them makes nearly
the same video.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from bwcache.errors import SettingError, complaint
from bwcache.measure.schedulers import flow_settings, is_flow
from bwcache.study.methods import FewerSteps
from bwcache.study.results import CEILING, Result

SOLVERS = {"UniPC": "UniPCMultistepScheduler", "DPM++ 2M": "DPMSolverMultistepScheduler"}
SMALLEST_ALPHA = 2.0**-24
"""In place of 0 at the end of a schedule with zero signal, as diffusers does."""


def fewer_steps(counts: Iterable[int], own: Any) -> tuple[FewerSteps, ...]:
    """For each number of steps: the pipeline's own scheduler, and every solver that can take its place.

    Args:
        counts: of steps.
        own: the pipeline's scheduler.
    """
    makers = replacements(own)
    wanted = sorted(set(counts))
    plain = [FewerSteps(count) for count in wanted]
    return (*plain, *(FewerSteps(count, name, make) for name, make in makers.items() for count in wanted))


def replacements(own: Any) -> dict[str, Callable[[Any], Any]]:
    """Solver -> what makes it from the pipeline's own scheduler; without the one that the pipeline has already.

    Nothing is tried here: a solver that cannot be made says so when it is.
    """
    return {name: functools.partial(multistep, name) for name, kind in SOLVERS.items() if type(own).__name__ != kind}


def multistep(name: str, own: Any) -> Any:
    """A solver for the equation that a pipeline's own scheduler solves.

    Args:
        name: "UniPC" or "DPM++ 2M".
        own: the pipeline's scheduler; it is not changed.

    Raises:
        SettingError: there is no such solver for what this scheduler does.
    """
    import diffusers

    kind = getattr(diffusers, SOLVERS[name])
    settings = dict(own.config)
    if is_flow(own):
        _expect_plain_flow(name, kind, own)
        wanted = flow_settings(settings)
    elif hasattr(own, "alphas_cumprod") and settings.get("timestep_type") != "continuous":
        wanted = _noise_settings(own, settings)
    else:
        found = f"{type(own).__name__}, for which there is no {name}"
        raise SettingError(complaint(found, "flow matching or a noise schedule", "compare with its own steps"))
    taken = inspect.signature(kind.__init__).parameters
    return kind(**{field: value for field, value in wanted.items() if field in taken})


def compute_range(shares: Sequence[float], total: int) -> tuple[int, ...]:
    """Numbers of steps that come to these shares of a run of `total` steps; each once, the full number never."""
    return tuple(sorted({count for share in shares if 1 <= (count := round(share * total)) < total}))


def best_multistep(rows: Sequence[Result]) -> str | None:
    """The solver whose videos are closest to the uncached ones: mean PSNR over the numbers of steps that all ran.

    None where no solver ran.
    """
    solved: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.family.startswith("fewer steps") and row.settings.get("solver") and row.cells:
            value = row.mean("psnr")
            solved.setdefault(row.settings["solver"], {})[row.settings["steps"]] = CEILING if value is None else value
    if not solved:
        return None
    shared = set.intersection(*(set(found) for found in solved.values()))
    return max(solved, key=lambda name: sum(solved[name][count] for count in shared))


def _expect_plain_flow(name: str, kind: Any, own: Any) -> None:
    settings = own.config
    for field in ("invert_sigmas", "stochastic_sampling"):
        if settings.get(field):
            found = f"{type(own).__name__} with {field}, which {kind.__name__} does not have"
            raise SettingError(complaint(found, "plain flow matching", "compare with its own steps"))
    if settings.get("use_dynamic_shifting") and name != "UniPC":
        found = f"{type(own).__name__} with a shift that depends on the size, which {kind.__name__} cannot be told"
        raise SettingError(complaint(found, "a fixed shift", "compare with UniPC"))


def _noise_settings(own: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The betas as the scheduler has them after whatever it did to them, not as its settings say."""
    kept = own.alphas_cumprod.double().clamp(min=SMALLEST_ALPHA)
    before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
    return settings | {"trained_betas": (1 - kept / before).tolist(), "rescale_betas_zero_snr": False}
