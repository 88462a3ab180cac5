"""MagCache (arXiv 2506.09045), as in diffusers: how much residuals grow is measured once, and errors are summed up."""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from bwcache.errors import AttachError, complaint
from bwcache.measure.call import OnProgress, Request, call
from bwcache.models import BlockStack, denoisers
from bwcache.study.folder import whole_file
from bwcache.study.peers.hooked import HookedPeer, found_in_diffusers, hooks_of
from bwcache.study.peers.peer import States
from bwcache.study.peers.restored import restored
from bwcache.study.peers.said import said

FILE = "magcache.json"


@dataclass(frozen=True)
class MagCache(HookedPeer):
    """diffusers' `MagCacheConfig`.

    Args:
        threshold: of the accumulated error, dimensionless.
        skipped: steps in a row that may be skipped.
        ratios: by how much the residual grows at each step, from `calibrate` on the same model and steps.
        uncalibrated: why there are none.
    """

    method: ClassVar[str] = "MagCache"
    shown: ClassVar[tuple[str, ...]] = ("threshold", "skipped")

    threshold: float = 0.06
    skipped: int = 3
    ratios: tuple[float, ...] = ()
    uncalibrated: str = ""

    def config(self, pipe: Any, stack: BlockStack) -> Any:
        """Its warm-up is a share of the steps, rounded to a number."""
        return found_in_diffusers("MagCacheConfig")(
            threshold=self.threshold,
            max_skip_steps=self.skipped,
            retention_ratio=self.guards.warmup / self.steps,
            num_inference_steps=self.steps,
            mag_ratios=list(self.ratios),
        )

    def attach(self, pipe: Any, stacks: Mapping[str, BlockStack], undo: ExitStack) -> States:
        """Also raises `AttachError` with two denoisers, of which each counts its own steps only, and without ratios."""
        if len(self.ratios) != self.steps:
            found = self.uncalibrated or complaint(f"{len(self.ratios)} ratios", f"{self.steps}", "calibrate it")
            raise AttachError(found)
        _expect_one(stacks)
        return super().attach(pipe, stacks, undo)

    def prepare(self, pipe: Any, hooks: Sequence[Any], modules: Sequence[nn.Module], undo: ExitStack) -> None:
        """A tail guard, which it does not have."""
        configs = list({id(hook.config): hook.config for hook in hooks}.values())
        self.guard_by_threshold(pipe, configs, self.threshold, modules, undo)

    def remarks(self, pipe: Any) -> tuple[str, ...]:
        """Where its guards and ratios come from."""
        return ("tail laid around it: it has none of its own", "calibrated on this model with one run")


def calibrate(pipe: Any, request: Request, on_progress: OnProgress | None = None) -> tuple[float, ...]:
    """One uncached run that measures how much the residual grows at each step, mean over the guidance branches.

    Returns:
        One ratio per step, dimensionless; 1 for the first.

    Raises:
        AttachError: diffusers' MagCache does not know this model, or there are two denoisers.
    """
    modules = denoisers(pipe)
    _expect_one(modules)
    (module,) = modules.values()
    seen: dict[str, list[float]] = defaultdict(list)
    with restored(pipe, [module]), said(), contextlib.redirect_stdout(io.StringIO()), ExitStack() as undo:
        _watch(module, request.steps, seen, undo)
        call(pipe, request, "calibrating MagCache", on_progress)
    branches = [ratios for ratios in seen.values() if len(ratios) == request.steps]
    if not branches:
        raise AttachError(
            complaint(
                f"{[len(ratios) for ratios in seen.values()]} ratios from MagCache's calibration",
                f"one for each of the {request.steps} steps",
                "leave MagCache out with --methods",
            )
        )
    return tuple(round(sum(step) / len(step), 6) for step in zip(*branches, strict=True))


def calibrated(folder: Path, pipe: Any, request: Request, on_progress: OnProgress | None = None) -> tuple[float, ...]:
    """The ratios that a study's folder keeps for its steps; measured, and kept from now on, where there are none.

    Raises:
        AttachError: as `calibrate`.
    """
    path = folder / FILE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["ratios"]
        if len(kept) == request.steps and all(isinstance(ratio, float) for ratio in kept):
            return tuple(kept)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    ratios = calibrate(pipe, request, on_progress)
    row = {"prompt": request.prompt, "seed": request.seed, "ratios": ratios}
    with whole_file(path) as part:
        part.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return ratios


def _watch(module: Any, steps: int, seen: dict[str, list[float]], undo: ExitStack) -> None:
    """Enables calibration and takes note of each ratio: diffusers prints them, and forgets them with the last step."""
    if not hasattr(module, "enable_cache"):
        raise AttachError(
            complaint(f"{type(module).__name__} without enable_cache", "a model with diffusers' caches", "leave it out")
        )
    module.enable_cache(found_in_diffusers("MagCacheConfig")(calibrate=True, num_inference_steps=steps))
    undo.callback(module.disable_cache)
    for _, hook in hooks_of(module):
        if getattr(hook, "is_tail", False):
            measure = hook._perform_calibration_step

            def measure_and_note(state: Any, residual: Any, hook: Any = hook, measure: Any = measure) -> None:
                measure(state, residual)
                seen[hook.state_manager.context.name].append(state.calibration_ratios[-1])

            hook._perform_calibration_step = measure_and_note


def _expect_one(parts: Mapping[str, Any]) -> None:
    if len(parts) > 1:
        raise AttachError(
            complaint(
                f"{len(parts)} denoisers ({', '.join(parts)})",
                "one: diffusers' MagCache counts the steps of each apart",
                "leave MagCache out with --methods",
            )
        )
