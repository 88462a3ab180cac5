"""A U-Net guided in two forwards, as programs with a loop of their own do: those of diffusers join both branches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DDIMScheduler
from torch import Tensor

import bwcache
from tests.tiny import noise
from tests.zoo.unets import sd_unet, text_to_video_unet

BUILDS = {
    "UNet2DConditionModel": (sd_unet, (1, 4, 8, 8)),
    "UNet3DConditionModel": (text_to_video_unet, (1, 4, 3, 8, 8)),
}
"""By the class, what makes one, and the shape of its latents."""

BRANCHES = ("cond", "uncond")


class TwoForwards:
    """A loop over DDIM's timesteps.

    Args:
        name: of the U-Net's class.
        steps: how many.

    Attributes:
        unet: the U-Net.
        scheduler: with its timesteps set.
        branch: of the forward that runs or ran last, 0 or 1.
    """

    def __init__(self, name: str, steps: int) -> None:
        build, self.shape = BUILDS[name]
        self.unet, self.scheduler, self.steps, self.branch = build(), DDIMScheduler(), steps, 0
        self.scheduler.set_timesteps(steps)

    @torch.no_grad()
    def run(self, session: bwcache.Session | None = None) -> Tensor:
        """Return the latents, with the session told of each step and branch."""
        latents, texts = noise(*self.shape), [noise(1, 5, 8, seed=1), noise(1, 5, 8, seed=2)]
        for index, time in enumerate(self.scheduler.timesteps):
            found = []
            for self.branch, text in enumerate(texts):
                with told(session, index, self.steps, BRANCHES[self.branch]):
                    found.append(self.unet(latents, time, encoder_hidden_states=text, return_dict=False)[0])
            cond, uncond = found
            latents = self.scheduler.step(uncond + 4 * (cond - uncond), time, latents).prev_sample
        return latents


@contextmanager
def told(session: bwcache.Session | None, index: int, total: int, branch: str) -> Iterator[None]:
    if session is None:
        yield
        return
    with session.step(index, total, branch):
        yield
