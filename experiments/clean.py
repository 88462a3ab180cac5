"""Batches of videos in plain PyTorch, without the engine, with the guided clean estimate z = x - sigma v at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from bwcache import shapes
from bwcache.policies.lists import best_lists
from bwcache.policies.planning import best, carried, damages
from bwcache.study.tuning.recording import Recording
from bwcache.study.tuning.tables import damage
from experiments.common import captions


@dataclass(frozen=True)
class Regime:
    """One way to sample.

    Attributes:
        steps, shift: of the schedule.
        solver: a name out of `solvers`.
        guidance: scale.
    """

    steps: int
    shift: float
    solver: str = "Euler"
    guidance: float = shapes.GUIDANCE_SCALE

    def scheduler(self) -> Any:
        """A fresh one, ready to step."""
        made = solvers()[self.solver](self.shift)
        made.set_timesteps(self.steps)
        return made

    @property
    def title(self) -> str:
        """For a table."""
        return f"{self.solver}, shift {self.shift:g}, {self.steps} steps"

    @cached_property
    def sigmas(self) -> list[float]:
        """At each step and after the last one."""
        return [float(sigma) for sigma in self.scheduler().sigmas]

    def listed(self, computed: int) -> list[int]:
        """The steps that `Planned` computes if it may compute so many."""
        return best(damages(tuple(self.sigmas)), computed=computed)


USUAL = (Regime(30, 1.0), Regime(30, 3.0), Regime(50, 5.0), Regime(50, 8.0, "UniPC"))


def solvers() -> dict[str, Callable[[float], Any]]:
    """Schedulers of one evaluation a step for flow matching; each takes the shift."""

    def flow(kind: Any, order: int) -> Callable[[float], Any]:
        settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": order}
        return lambda shift: kind(**settings, flow_shift=shift)

    return {
        "Euler": lambda shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
        "DPM++ 2M": flow(diffusers.DPMSolverMultistepScheduler, 2),
        "UniPC": flow(diffusers.UniPCMultistepScheduler, 2),
        "UniPC, order 3": flow(diffusers.UniPCMultistepScheduler, 3),
    }


SAME = 119.0
"""dB; beyond that no pixel differs by more than rounding."""
FRESH, OTHER_NOISE = range(88, 96), 1000
"""Places of captions, and what is added to a place for the seed of its noise: nothing was chosen on these videos."""


class Batch:
    """Videos as they are without a cache.

    Args:
        pipe: the shapes model, or that of images.
        regime: how they are sampled.
        places: of their captions.
        seeds: what is added to a place for the seed of its noise.
        frames: of each.

    Attributes:
        latents: at each step and at the end, `[N + 1, B, C, T, H, W]`.
        branches: the clean estimates with and without the prompt at each step, `[2, N, B, C, T, H, W]`.
    """

    def __init__(
        self,
        pipe: Any,
        regime: Regime,
        places: Sequence[int] = FRESH,
        seeds: int = OTHER_NOISE,
        frames: int = shapes.FRAMES,
    ) -> None:
        self.pipe, self.regime, self.sigmas, self.steps = pipe, regime, regime.sigmas, regime.steps
        known = captions(max(places) + 1)
        with torch.no_grad():
            self.texts = pipe.encode_prompt([known[place].text for place in places], [""] * len(places), True, 1)
            size = (pipe.transformer.config.in_channels, shapes.HEIGHT, shapes.WIDTH, frames)
            generators = [torch.Generator().manual_seed(seeds + place) for place in places]
            like = (torch.float32, torch.device("cpu"))
            self.latents, self.branches = self._uncached(
                torch.cat([pipe.prepare_latents(1, *size, *like, one) for one in generators])
            )

    def __len__(self) -> int:
        return self.latents.shape[1]

    def estimates(self, latents: Tensor, sigma: float) -> Tensor:
        """The clean estimates with and without the prompt, `[2, B, …]`."""
        time = torch.full((len(latents),), sigma * 1000)
        said = [self.pipe.transformer(latents, time, text, return_dict=False)[0] for text in self.texts]
        return torch.stack([latents - sigma * velocity for velocity in said])

    def estimate(self, latents: Tensor, sigma: float) -> Tensor:
        """The guided clean estimate."""
        return self.guided(self.estimates(latents, sigma))

    def guided(self, branches: Tensor) -> Tensor:
        """The two branches as one."""
        return branches[1] + self.regime.guidance * (branches[0] - branches[1])

    @cached_property
    def clean(self) -> Tensor:
        """The guided estimates of the uncached run, `[N, B, …]`."""
        return self.guided(self.branches)

    def _uncached(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        scheduler, path, branches = self.regime.scheduler(), [latents], []
        for step, sigma in enumerate(self.sigmas[:-1]):
            branches.append(self.estimates(path[-1], sigma))
            path.append(stepped(scheduler, step, path[-1], self.guided(branches[-1]), sigma))
        return torch.stack(path), torch.stack(branches, 1)

    def at(self, sigma: float) -> Tensor:
        """The uncached latents at any noise level, along straight lines between the steps."""
        step = next(k for k in range(self.steps) if self.sigmas[k + 1] <= sigma)
        share = (self.sigmas[step] - sigma) / (self.sigmas[step] - self.sigmas[step + 1])
        return torch.lerp(self.latents[step], self.latents[step + 1], share)

    def psnr(self, latents: Tensor) -> Tensor:
        """Of the decoded frames against the uncached ones: the mean over the frames of each video, dB."""
        error = ((self.decoded(latents) - self.uncached) ** 2).mean(dim=(1, 3, 4))
        return (-10 * error.clamp_min(1e-12).log10()).mean(1)

    @cached_property
    def uncached(self) -> Tensor:
        """Its frames."""
        return self.decoded(self.latents[-1])

    def decoded(self, latents: Tensor) -> Tensor:
        """Frames in 0..1, `[B, 3, T, H, W]`."""
        config = self.pipe.vae.config
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return (self.pipe.vae.decode(latents * std + mean, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    def recordings(self) -> list[Recording]:
        """What `bwcache tune` plans from, video by video."""
        rows = [np.asarray(part.flatten(2).transpose(0, 1)) for part in (self.latents, self.clean)]
        return [Recording(tuple(self.sigmas), path, clean) for path, clean in zip(*rows, strict=True)]


def own_list(recordings: Sequence[Recording], computed: int) -> list[int]:
    """The list that `bwcache tune` plans from uncached runs."""
    return list(next(one.steps for one in best_lists(damage(recordings)) if len(one.steps) == computed))


def stepped(scheduler: Any, step: int, latents: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """The latents after a step whose prediction means these clean latents."""
    made: Tensor = scheduler.step((latents - clean) / sigma, scheduler.timesteps[step], latents, return_dict=False)[0]
    return made


Past = list[tuple[float, Tensor]]
"""Noise levels and the estimates there, newest first."""
Fill = Callable[[Batch, int, int, Tensor, Past], Callable[[int], Tensor]]
"""Of a window from i to j, the latents at its first reused step and the past: the estimate by step."""


def run(
    batch: Batch,
    listed: Sequence[int],
    fill: Fill,
    ahead: float = 0.0,
    true_point: bool = False,
    far: float = math.inf,
) -> Tensor:
    """Make the videos with these steps computed; PSNR of each, dB.

    Args:
        batch: the videos.
        listed: ascending from 0.
        fill: what is done in the steps between.
        ahead: how far into a window the denoiser is evaluated, 0..1, at the point to which the last estimate leads.
        true_point: at the point where the uncached run is at that noise level instead, wherever a window follows.
        far: damage, as foretold, that the way there may do; where it would be more the denoiser is evaluated in place.
    """
    scheduler, latents, sigmas = batch.regime.scheduler(), batch.latents[0], batch.sigmas
    past: Past = []
    for i, j in zip(listed, [*listed[1:], batch.steps], strict=True):
        at, there = sigmas[i], latents
        if ahead and past and j - i > 1:
            inside = within(sigmas, i, j, ahead)
            if carried(sigmas[i], inside, past[0][0]) <= far:
                at = inside
                there = latents * (at / sigmas[i]) + past[0][1] * (1 - at / sigmas[i])
        clean = batch.estimate(batch.at(at) if true_point and j - i > 1 else there, at)
        past = [(at, clean), *past[:2]]
        latents = stepped(scheduler, i, latents, clean, sigmas[i])
        if j > i + 1:
            estimate = fill(batch, i, j, latents, past)
            for k in range(i + 1, j):
                latents = stepped(scheduler, k, latents, estimate(k), sigmas[k])
    return batch.psnr(latents)


def within(sigmas: Sequence[float], i: int, j: int, ahead: float) -> float:
    """The noise level so far into the window of steps i to j - 1: .5 is its mean."""
    return sigmas[i] + 2 * ahead * (sum(sigmas[i:j]) / (j - i) - sigmas[i])


def line(length: float, reach: float = 1.5) -> Fill:
    """So much of the way along the line through the last two estimates, at most so many gaps of it."""

    def fill(batch: Batch, i: int, j: int, latents: Tensor, past: Past) -> Any:
        if len(past) < 2 or length == 0:
            return lambda k: past[0][1]
        (near, newest), (far, older) = past[:2]
        return lambda k: newest + length * min((batch.sigmas[k] - near) / (near - far), reach) * (newest - older)

    return fill


HELD, THIRD = line(0.0), line(0.3)


def mean_and_worst(found: Sequence[float]) -> str:
    """Of the PSNR of each video."""
    return "identical" if min(found) > SAME else f"{sum(found) / len(found):.1f} / {min(found):.1f}"
