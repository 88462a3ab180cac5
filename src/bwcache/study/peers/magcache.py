"""MagCache (arXiv 2506.09045), as in diffusers: how much residuals grow is measured once, and errors are summed up."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from bwcache.core.files import read_json, write_json
from bwcache.errors import AttachError, complaint
from bwcache.measure.call import OnProgress, Request, call
from bwcache.models import BlockStack, denoisers
from bwcache.study.peers.hooked import HookedPeer, found_in_diffusers, hooks_of
from bwcache.study.peers.library_warnings import library_warnings
from bwcache.study.peers.peer import States, before_each_forward, remaining
from bwcache.study.peers.restored import restored

FILE = "magcache.json"


@dataclass(frozen=True)
class MagCache(HookedPeer):
    """diffusers' `MagCacheConfig`.

    It counts the forwards of each denoiser. Where two share a run (Wan 2.2), both are told the step of the run instead,
    so that ratios and warm-up are those of the step; each keeps its own residual, and begins by computing.

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
        """Also raises `AttachError` without ratios for these steps."""
        if len(self.ratios) != self.steps:
            found = self.uncalibrated or complaint(f"{len(self.ratios)} ratios", f"{self.steps}", "calibrate it")
            raise AttachError(found)
        return super().attach(pipe, stacks, undo)

    def prepare(self, pipe: Any, hooks: Sequence[Any], modules: Sequence[nn.Module], undo: ExitStack) -> None:
        """A tail guard, which it does not have, and the step of the run for denoisers that share one."""
        configs = list({id(hook.config): hook.config for hook in hooks}.values())
        self.guard_by_threshold(pipe, configs, self.threshold, modules, undo)
        if len(modules) > 1:
            for module in modules:
                managers = list({id(hook.state_manager): hook.state_manager for _, hook in hooks_of(module)}.values())
                before_each_forward([module], partial(_tell_step, pipe, managers), undo)

    def remarks(self, pipe: Any) -> tuple[str, ...]:
        """Where its guards, ratios and steps come from."""
        told = ("told the step of the run: it counts those of each denoiser",) if len(denoisers(pipe)) > 1 else ()
        return ("tail laid around it: it has none of its own", "calibrated on this model with one run", *told)


def calibrate(pipe: Any, request: Request, on_progress: OnProgress | None = None) -> tuple[float, ...]:
    """One uncached run that measures how much the residual grows at each step, mean over the guidance branches.

    Returns:
        One ratio per step of the run, dimensionless; 1 for the first of each denoiser.

    Raises:
        AttachError: diffusers' MagCache does not know this model.
    """
    modules = list(denoisers(pipe).values())
    seen: dict[str, list[float]] = defaultdict(list)
    with restored(pipe, modules), library_warnings(), contextlib.redirect_stdout(io.StringIO()), ExitStack() as undo:
        for module in modules:
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
        kept = read_json(path)["ratios"]
        if len(kept) == request.steps and all(isinstance(ratio, float) for ratio in kept):
            return tuple(kept)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    ratios = calibrate(pipe, request, on_progress)
    row = {"prompt": request.prompt, "seed": request.seed, "ratios": ratios}
    write_json(path, row)
    return ratios


def _tell_step(pipe: Any, managers: Sequence[Any]) -> None:
    """The step of the run, for the states of the branch that is computed now."""
    from diffusers.hooks.hooks import CacheContext

    left, total = remaining(pipe)
    for manager in managers:
        if manager._context is None:
            manager.set_context(CacheContext("all"))
        manager.get_state().step_index = total - left


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
