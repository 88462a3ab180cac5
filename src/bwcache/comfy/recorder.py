"""What a tuning needs to know of a sampling, read where the sampler gets its estimates; and whether one can be made."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bwcache.comfy.noise_levels import NoiseLevels
from bwcache.comfy.rehearsal import adds_noise, evaluations, sampler_name
from bwcache.errors import SettingError, complaint
from bwcache.study.tuning.recording import Entries, Recording

KEY = "bwcache recorder"
PLAIN = "a sampler that evaluates once a step and adds no noise, such as euler, dpmpp_2m or uni_pc"
SAME = 2e-3
"""Sigmas that differ by no more are the same: some samplers keep away from zero."""


class Recorder:
    """Records one sampling."""

    def __init__(self) -> None:
        self._levels: NoiseLevels | None = None
        self._entries = Entries()
        self._shares: list[float] = []
        self._latents: list[np.ndarray] = []
        self._clean: list[np.ndarray] = []

    def on(self, model: Any) -> Any:
        """Return a clone of a model patcher that is recorded."""
        clone = model.clone()
        for point in ("sampler_sample", "predict_noise"):
            clone.remove_wrappers_with_key(point, KEY)
            clone.add_wrapper_with_key(point, KEY, getattr(self, point))
        return clone

    def sampler_sample(
        self, executor: Any, model_wrap: Any, sigmas: Any, extra_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """One sampling, once it is known that a plan can be made of it."""
        self._levels = NoiseLevels(model_wrap.inner_model.model_sampling)
        noise = args[1] if len(args) > 1 else kwargs.get("noise")
        expect_plain(executor.class_obj, model_wrap, sigmas, getattr(noise, "ndim", 4))
        made = executor(model_wrap, sigmas, extra_args, *args, **kwargs)
        self._note(float(sigmas[-1]), made)
        return made

    def predict_noise(self, executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        """One evaluation: latents in, the estimate of the data out."""
        if self._levels is not None:
            self._note(float(timestep.flatten()[0]), x)
        clean = executor(x, timestep, *args, **kwargs)
        self._clean.append(self._entries.of(clean))
        return clean

    def _note(self, sigma: float, latents: Any) -> None:
        assert self._levels is not None
        self._shares.append(self._levels.share(sigma))
        self._latents.append(self._entries.of(latents * self._levels.scale(sigma)))

    def found(self) -> Recording:
        """Return what was recorded."""
        return Recording(tuple(self._shares), np.stack(self._latents), np.stack(self._clean))


def expect_plain(sampler: Any, model_wrap: Any, sigmas: Any, axes: int) -> None:
    """Raises `SettingError` for a sampler of whose steps no plan can be made, before it evaluates anything."""
    name = sampler_name(sampler)
    steps = [float(sigma) for sigma in sigmas]
    if any(a <= b for a, b in pairwise(steps)) or steps[-1] > 0:
        found = f"sigmas {', '.join(f'{sigma:.3g}' for sigma in steps)}"
        raise SettingError(complaint(found, "sigmas that fall to 0", "tune a whole run: denoise above 0, one sampler"))
    called_at = evaluations(sampler, model_wrap, sigmas, axes, 0)
    if not called_at:
        raise SettingError(complaint(f"{name}, whose evaluations cannot be told beforehand", PLAIN, "choose one"))
    once = len(called_at) == len(steps) - 1
    if not once or any(abs(a - b) > SAME * max(1.0, b) for a, b in zip(called_at, steps, strict=False)):
        found = f"{name}, which evaluates the model {len(called_at)} times in {len(steps) - 1} steps"
        found = f"{name}, which evaluates the model between its steps" if once else found
        raise SettingError(complaint(found, PLAIN, "choose one, or use a grade without a plan"))
    if adds_noise(sampler, model_wrap, sigmas, axes):
        found = f"{name}, which adds noise in its steps"
        raise SettingError(complaint(found, PLAIN, "choose one, or use a grade without a plan"))
