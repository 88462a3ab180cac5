"""What is kept of the denoiser itself: what it adds to its latents, or the clean latents that its prediction means.

A model may predict a variance too, and take a picture beside the latents: what only one of both has stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from bwcache.engine import returned
from bwcache.features.noise_level import NoiseLevel
from bwcache.models import Keeps

Form = Callable[[Tensor, Tensor], Tensor]


def kept(
    keeps: Keeps, entered: Mapping[str, Any], level: NoiseLevel | None, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return what a root keeps of the tensors that it returned; nothing where its clean latents cannot be told."""
    if keeps == "residual":
        return _changed(found, entered, lambda latents, prediction: prediction - latents) or found
    if keeps == "clean":
        return {} if level is None or not level.says_data else _changed(found, entered, level.clean) or {}
    return found


def made(
    keeps: Keeps, entered: Mapping[str, Any], level: NoiseLevel | None, found: dict[str, Tensor], dtype: Any
) -> dict[str, Tensor]:
    """Return the reverse of `kept`: what the root would return now; a prediction made of clean latents as `dtype`."""
    if keeps == "residual":
        return _changed(found, entered, lambda latents, prediction: prediction + latents) or found
    if keeps == "clean" and level is not None:
        changed = _changed(found, entered, level.predicted) or found
        return {name: tensor.to(dtype) if i == 0 else tensor for i, (name, tensor) in enumerate(changed.items())}
    return found


def _changed(found: dict[str, Tensor], entered: Mapping[str, Any], form: Form) -> dict[str, Tensor] | None:
    """The same with another prediction in it; None where latents and prediction do not lie alike."""
    name, latents = returned.prediction(found), next(iter(entered.values()))
    changed = on_shared(form, latents, found[name]) if isinstance(latents, Tensor) else None
    return None if changed is None else {**found, name: changed}


def on_shared(form: Form, latents: Tensor, prediction: Tensor) -> Tensor | None:
    """Return a prediction after `form(latents, prediction)`, as far along as they lie alike: from the first entry on.

    None where they differ along more than one axis.
    """
    axis = axis_apart(latents, prediction)
    if axis is None:
        return None
    if latents.shape == prediction.shape:
        return form(latents, prediction)
    size = min(latents.shape[axis], prediction.shape[axis])
    part = form(latents.narrow(axis, 0, size), prediction.narrow(axis, 0, size))
    changed = prediction.to(part.dtype, copy=True)
    changed.narrow(axis, 0, size).copy_(part)
    return changed


def axis_apart(latents: Tensor, prediction: Tensor) -> int | None:
    """Return the one axis along which two shapes differ, any where they are the same; None: they do not lie alike."""
    if latents.ndim != prediction.ndim:
        return None
    apart = [axis for axis, (a, b) in enumerate(zip(latents.shape, prediction.shape, strict=True)) if a != b]
    return None if len(apart) > 1 or apart == [0] else (apart or [0])[0]
