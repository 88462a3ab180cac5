"""What a denoiser must return in a skipped step where its clean latents are kept: by the text of schedulers and papers.

Clean latents are `latents * of_latents + prediction * of_prediction`. Nothing here is of the engine: how much of each
is read off the scheduler at the time with which the denoiser is called, or is what the program says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import bwcache
from bwcache.features.weighted import Weighted

TIMES: dict[str, Callable[[float], float]] = {"flux": lambda time: time * 1000}
"""From the time argument to the scheduler's time, for the kinds that change it."""


@dataclass(frozen=True)
class Level:
    """Where a forward stands: what makes up the clean latents, and the share of noise in the latents, 1..0."""

    of_latents: float
    of_prediction: float
    share: float


@dataclass(frozen=True)
class Kept:
    """Clean latents as they were at a computed step; with channels that only the prediction has as they are."""

    clean: Tensor
    step: int
    share: float

    @classmethod
    def of(cls, latents: Tensor, prediction: Tensor, level: Level, step: int) -> Kept:
        shared = min(latents.shape[1], prediction.shape[1])
        clean = prediction.double()
        clean[:, :shared] *= level.of_prediction
        clean[:, :shared] += latents[:, :shared].double() * level.of_latents
        return cls(clean, step, level.share)


def predicted(clean: Tensor, latents: Tensor, level: Level) -> Tensor:
    """The prediction that means these clean latents."""
    shared = min(latents.shape[1], clean.shape[1])
    found = clean.clone()
    found[:, :shared] -= latents[:, :shared].double() * level.of_latents
    found[:, :shared] /= level.of_prediction
    return found


def foretold(policy: Any, past: Sequence[Kept], share: float, reason: str) -> Tensor:
    """The clean latents of a skipped step, from those of the computed ones, newest first."""
    predictor, newest = policy.feature_predictor, past[0].clean
    made_up = re.match(r"making up for the window before \(([\d.]+),", reason)
    if made_up and len(past) > 1:
        return newest + float(made_up[1]) * (newest - past[1].clean)
    if isinstance(predictor, bwcache.Bounded) and len(past) > 1:
        gap = past[1].share - past[0].share
        far = min((past[0].share - share) / gap, predictor.reach) if gap else 0.0
        return newest + predictor.length * far * (newest - past[1].clean)
    if isinstance(predictor, Weighted) and "carried over" not in reason:
        listed, rows = zip(*predictor.rows, strict=True)
        here = listed.index(past[0].step) if past[0].step in listed else -1
        known = past[: len(rows[here])]
        if here < 0 or [one.step for one in known] != [*listed[here::-1]][: len(known)]:
            return newest
        weights = [*rows[here][: len(known)]]
        weights[0] += sum(rows[here][len(known) :])
        return torch.stack([weight * one.clean for weight, one in zip(weights, known, strict=True)]).sum(0)
    return newest


def level_of(kind: str, scheduler: Any, time: float, said: Mapping[str, Any]) -> Level | None:
    """By the scheduler, at the time argument of a forward, and by what the program says.

    Without a scheduler what is said is of a flow; None where nothing is.
    """
    if scheduler is None:
        return _of_sigma("flow_prediction", said["sigma"]) if "sigma" in said else None
    predicts = getattr(scheduler.config, "prediction_type", "flow_prediction")
    time = TIMES.get(kind, float)(time)
    if getattr(scheduler, "sigmas", None) is None:
        data = float(scheduler.alphas_cumprod[int(time)])
        level = _of_sigma(predicts, ((1 - data) / data) ** 0.5)
    else:
        step = int((scheduler.timesteps.double() - time).abs().argmin())
        level = _of_sigma(predicts, said.get("sigma", float(scheduler.sigmas[step])))
    return replace(level, share=said.get("noise", level.share))


def _of_sigma(predicts: str, sigma: float) -> Level:
    """Sigma is noise over data, but of a flow the share of noise."""
    if predicts.startswith("flow"):
        return Level(1.0, -sigma, sigma)
    signal = (1 + sigma**2) ** -0.5
    noise, share = sigma * signal, sigma / (1 + sigma)
    if predicts == "v_prediction":
        return Level(signal, -noise, share)
    assert predicts == "epsilon", predicts
    return Level(1 / signal, -noise / signal, share)
