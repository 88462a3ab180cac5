"""Which evaluations of the model a sampler will make: found by running it on next to nothing.

Samplers of second order evaluate between their steps, each in its own way; a cache that counts steps is then wrong
from the first one on. So the sampler's own function is run once on a handful of numbers, with a denoiser that only
notes the sigma at which it is called. Random numbers are as they were afterwards.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor


class Noting:
    """A denoiser that notes at which sigmas it is called.

    Args:
        inner_model: what samplers look into for the model's settings.
        sigmas: of the sampler.

    Attributes:
        called_at: the sigmas, in order.
        latents: the first number of what came with each.
    """

    def __init__(self, inner_model: Any, sigmas: Tensor) -> None:
        self.inner_model, self.sigmas = inner_model, sigmas
        self.called_at: list[float] = []
        self.latents: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, **_: Any) -> Tensor:
        """Return estimates of zero; what asks for both branches gets them."""
        self.called_at.append(float(sigma.flatten()[0]))
        self.latents.append(float(x.flatten()[0]))
        denoised = torch.zeros_like(x)
        said = {
            "denoised": denoised,
            "cond_denoised": denoised,
            "uncond_denoised": denoised,
            "input": x,
            "sigma": sigma,
        }
        for after in (model_options or {}).get("sampler_post_cfg_function", ()):
            after({**said, "cond": None, "uncond": None, "cond_scale": 1.0, "model": None, "model_options": {}})
        return denoised


def evaluations(sampler: Any, inner_model: Any, sigmas: Tensor, axes: int, seed: int | None = None) -> list[float]:
    """Return the sigma of each evaluation that the sampler will make, in order; none where it cannot be told.

    Args:
        sampler: ComfyUI's, as a node hands it on.
        inner_model: what it samples with.
        sigmas: of its steps, on any device.
        axes: number of axes of the latents.
        seed: of the noise that it adds.
    """
    noted = _rehearsed(sampler, inner_model, sigmas, axes, 0 if seed is None else seed)
    return [] if noted is None else noted.called_at


def adds_noise(sampler: Any, inner_model: Any, sigmas: Tensor, axes: int) -> bool:
    """Return whether a sampler adds noise of its own, so that its latents depend on the seed that it is told.

    Arguments as of `evaluations`.
    """
    first, other = (_rehearsed(sampler, inner_model, sigmas, axes, seed) for seed in (0, 1))
    return first is None or other is None or first.latents != other.latents


def _rehearsed(sampler: Any, inner_model: Any, sigmas: Tensor, axes: int, seed: int) -> Noting | None:
    run = getattr(sampler, "sampler_function", None)
    if run is None:
        return None
    listed = sigmas.detach().float().cpu()
    noting = Noting(inner_model, listed)
    said = {"model_options": {}, "seed": seed}
    options = getattr(sampler, "extra_options", {}) or {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        try:
            run(noting, torch.ones((1,) * axes), listed, extra_args=said, callback=None, disable=True, **options)
        except Exception as error:  # a sampler may look into anything
            logging.getLogger("bwcache").info("the sampler cannot be rehearsed: %s", error)
            return None
    return noting


def sampler_name(sampler: Any) -> str:
    """Return a sampler's name as a person chose it, as far as its function tells."""
    run = getattr(sampler, "sampler_function", None)
    name = getattr(run, "__name__", type(sampler).__name__)
    return str(name).removeprefix("sample_").removesuffix("_function")
