"""Experiment 17: planned lists. What is kept, what is done in between, where the denoiser is evaluated, which branches.

Everything is done on the guided clean estimate z = x - sigma v of a batch of videos in plain PyTorch, without the
engine: eight videos to fit on, sixteen others to judge by. With few videos 1 dB means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from bwcache import shapes
from bwcache.policies.planning import best, damages
from experiments.common import captions, load, publish

FITTED, JUDGED, FIRST = 8, 16, 64
REGIMES: dict[str, tuple[int, float, str]] = {
    "Euler, shift 1, 30 steps": (30, 1.0, "euler"),
    "Euler, shift 3, 30 steps": (30, 3.0, "euler"),
    "Euler, shift 5, 50 steps": (50, 5.0, "euler"),
    "UniPC, shift 8, 50 steps": (50, 8.0, "unipc"),
}
COMPUTED = 10
AHEAD = 0.3
"""How far into a window the denoiser is evaluated, where it looks ahead."""


@dataclass
class Regime:
    """One way to sample, and the videos as they are without a cache.

    Attributes:
        latents: at each step and at the end, `[N + 1, B, C, T, H, W]`.
        branches: the clean estimates with and without the prompt at each step, `[2, N, B, C, T, H, W]`.
    """

    pipe: Any
    steps: int
    shift: float
    kind: str

    def __post_init__(self) -> None:
        chosen = [caption.text for caption in captions(FIRST + FITTED + JUDGED)[FIRST:]]
        with torch.no_grad():
            self.texts = self.pipe.encode_prompt(chosen, [""] * len(chosen), True, 1)
            size = (shapes.HEIGHT, shapes.WIDTH, shapes.FRAMES)
            noises = [
                self.pipe.prepare_latents(
                    1, self.pipe.transformer.config.in_channels, *size, torch.float32, torch.device("cpu"),
                    torch.Generator().manual_seed(FIRST + i),
                )
                for i in range(len(chosen))
            ]  # fmt: skip
            self.latents, self.branches = self._uncached(torch.cat(noises))

    def scheduler(self) -> Any:
        """A fresh one, ready to step."""
        made: Any = FlowMatchEulerDiscreteScheduler(shift=self.shift)
        if self.kind == "unipc":
            made = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift
            )
        made.set_timesteps(self.steps)
        return made

    @cached_property
    def sigmas(self) -> list[float]:
        """At each step and after the last one."""
        return [float(sigma) for sigma in self.scheduler().sigmas]

    def estimates(self, latents: Tensor, sigma: float) -> Tensor:
        """The clean estimates with and without the prompt, `[2, B, …]`."""
        time = torch.full((len(latents),), sigma * 1000)
        said = [self.pipe.transformer(latents, time, text, return_dict=False)[0] for text in self.texts]
        return torch.stack([latents - sigma * velocity for velocity in said])

    def _uncached(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        scheduler, path, branches = self.scheduler(), [latents], []
        for step, sigma in enumerate(self.sigmas[:-1]):
            branches.append(self.estimates(path[-1], sigma))
            path.append(stepped(scheduler, step, path[-1], guided(branches[-1]), sigma))
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


def guided(branches: Tensor) -> Tensor:
    """The two branches as one."""
    return branches[1] + shapes.GUIDANCE_SCALE * (branches[0] - branches[1])


def stepped(scheduler: Any, step: int, latents: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """The latents after a step whose prediction means these clean latents."""
    made: Tensor = scheduler.step((latents - clean) / sigma, scheduler.timesteps[step], latents, return_dict=False)[0]
    return made


def fit(target: Tensor, columns: Sequence[Tensor], prior: Sequence[float], ridge: float = 0.01) -> list[float]:
    """Weights of the columns after the first for a target, by least squares on the videos to fit on.

    The first column takes what is left to a sum of one.
    """
    if len(columns) == 1:
        return [1.0]
    moved = torch.stack([(column - columns[0])[:FITTED].flatten() for column in columns[1:]], 1).double()
    before = torch.tensor(prior[1 : len(columns)], dtype=torch.float64)
    wanted = (target - columns[0])[:FITTED].flatten().double() - moved @ before
    gram = moved.T @ moved
    more = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)), moved.T @ wanted)
    weights = (before + more).tolist()
    return [1 - sum(weights), *weights]


Fill = Callable[[Regime, int, int, Tensor, list[tuple[float, Tensor]]], Callable[[int], Tensor]]
"""Of a window from i to j, the latents at its first reused step and the past, newest first: the estimate by step."""


def run(regime: Regime, listed: Sequence[int], fill: Fill, ahead: float = 0.0) -> Tensor:
    """Make the videos with these steps computed; PSNR of each, dB."""
    scheduler, latents, sigmas = regime.scheduler(), regime.latents[0], regime.sigmas
    past: list[tuple[float, Tensor]] = []
    for i, j in zip(listed, [*listed[1:], regime.steps], strict=True):
        at, there = sigmas[i], latents
        if ahead and past and j - i > 1:
            at = sigmas[i] + 2 * ahead * (sum(sigmas[i:j]) / (j - i) - sigmas[i])
            there = latents * (at / sigmas[i]) + past[0][1] * (1 - at / sigmas[i])
        clean = guided(regime.estimates(there, at))
        past = [(at, clean), *past[:2]]
        latents = stepped(scheduler, i, latents, clean, sigmas[i])
        if j > i + 1:
            estimate = fill(regime, i, j, latents, past)
            for k in range(i + 1, j):
                latents = stepped(scheduler, k, latents, estimate(k), sigmas[k])
    return regime.psnr(latents)


def line(length: float) -> Fill:
    """So much of the way along the line through the last two estimates, at most one and a half gaps."""

    def fill(regime: Regime, i: int, j: int, latents: Tensor, past: list[tuple[float, Tensor]]) -> Any:
        if len(past) < 2 or length == 0:
            return lambda k: past[0][1]
        (near, newest), (far, older) = past[:2]
        return lambda k: newest + length * min((regime.sigmas[k] - near) / (near - far), 1.5) * (newest - older)

    return fill


def fitted(regime: Regime, listed: Sequence[int], passes: int = 3) -> Fill:
    """Weights of the last three estimates for each window, fitted on the trajectory that the weights so far make."""
    weights: dict[int, list[float]] = {}
    found: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def fill(regime: Regime, i: int, j: int, latents: Tensor, past: list[tuple[float, Tensor]]) -> Any:
        found[i] = latents, [clean for _, clean in past]
        own = weights.get(i, [1.0])
        made = torch.stack([share * clean for share, clean in zip(own, found[i][1], strict=False)]).sum(0)
        return lambda k: made

    for _ in range(passes):
        run(regime, listed, fill)
        for i, j in zip(listed, [*listed[1:], regime.steps], strict=True):
            if i in found:
                latents, columns = found[i]
                left = regime.sigmas[j] / regime.sigmas[i + 1]
                target = (regime.latents[j] - left * latents) / (1 - left)
                weights[i] = fit(target, columns, [*weights.get(i, [1.0]), 0.0, 0.0])
    return fill


def residual(regime: Regime, end: int, columns: list[Tensor], begin: int) -> float:
    """Relative error of the mean estimate of a window by least squares, on the videos to judge by."""
    mean = guided(regime.branches[:, begin:end].transpose(0, 1).mean(0))
    shares = fit(mean, columns, [1.0, *[0.0] * (len(columns) - 1)], 1e-4)
    made = torch.stack([share * column for share, column in zip(shares, columns, strict=True)]).sum(0)
    return float((made - mean)[FITTED:].norm() / mean[FITTED:].norm())


def mean_and_worst(found: Tensor) -> str:
    """Of the videos to judge by."""
    return f"{found[FITTED:].mean():.1f} / {found[FITTED:].min():.1f}"


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    rows: list[list[Any]] = [["regime", "list", "held", "a third", "all of the line", "look ahead", "fitted"]]
    figures: dict[str, Any] = {"fitted on": FITTED, "judged by": JUDGED, "regimes": {}}
    for name, said in REGIMES.items():
        regime = Regime(pipe, *said)
        listed = best(damages(tuple(regime.sigmas)), computed=COMPUTED)
        found = {
            "held": run(regime, listed, line(0.0)),
            "a third": run(regime, listed, line(0.3)),
            "line": run(regime, listed, line(1.0)),
            "look ahead": run(regime, listed, line(0.0), AHEAD),
            "fitted": run(regime, listed, fitted(regime, listed)),
        }
        rows.append([name, ", ".join(map(str, listed)), *map(mean_and_worst, found.values())])
        p, i, j = listed[COMPUTED // 2 - 1 : COMPUTED // 2 + 2]
        z, c, u = guided(regime.branches), regime.branches[0], regime.branches[1]
        computed = {"both": [z[i], z[p]], "with the prompt alone": [c[i], c[p], u[p]], "neither": [z[p]]}
        figures["regimes"][name] = {
            "listed": listed,
            "psnr": {key: value[FITTED:].tolist() for key, value in found.items()},
            "window": (p, i, j),
            "residual": {name: residual(regime, j, columns, i) for name, columns in computed.items()},
            "drift": drift(regime),
        }
    publish("plan", figures, pipe, rows)


def drift(regime: Regime) -> list[list[float]]:
    """Noise, and how far the estimate moves in one step relative to the clean latents, per unit of log-SNR."""
    z, found = guided(regime.branches), []
    size = float(z[-1].norm())
    for k in range(1, regime.steps - 1):
        here, there = regime.sigmas[k], regime.sigmas[k + 1]
        apart = math.log((1 - there) / there) - math.log((1 - here) / here)
        found.append([here, float((z[k + 1] - z[k]).norm()) / size / apart])
    return found


if __name__ == "__main__":
    main()
