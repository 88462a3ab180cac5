"""What of ComfyUI itself the nodes call: its sampler, its progress, its folders. Only ComfyUI imports this module."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
from torch import Tensor

from bwcache.comfy.rehearsal import sampler_name
from bwcache.comfy.tuning import Asked, OnStep
from bwcache.measure.frames import Frames

PLANS = "bwcache"
"""The folder of plans, beside those of models."""


def plan_folders() -> list[Path]:
    """Return the folders that plans are looked for in; new ones are written to the first."""
    if PLANS not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(PLANS, os.path.join(folder_paths.models_dir, PLANS))
    return [Path(folder) for folder in folder_paths.get_folder_paths(PLANS)]


def samplers() -> list[str]:
    """Return ComfyUI's samplers, by name."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def sampler_function(name: str) -> str:
    """Return what ComfyUI calls for a sampler."""
    return sampler_name(comfy.samplers.sampler_object(name))


def schedulers() -> list[str]:
    """Return ComfyUI's schedulers, by name."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def sampled(model: Any, asked: Asked, positive: Any, seed: int, on_step: OnStep) -> Tensor:
    """Return the latents of one sampling, as a KSampler node makes them.

    Args:
        model: a model patcher.
        asked: the settings.
        positive: the conditioning.
        seed: of the noise.
        on_step: called after each step.
    """
    latents = comfy.sample.fix_empty_latent_channels(model, asked.latents)
    made: Tensor = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latents, seed),
        asked.steps,
        asked.cfg,
        asked.sampler,
        asked.scheduler,
        positive,
        asked.negative,
        latents,
        denoise=asked.denoise,
        callback=lambda step, *_: on_step(step),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return made


def decoded(vae: Any, latents: Tensor) -> Frames:
    """Return the frames of latents, of picture and sound those of the picture, float32 `[F, H, W, 3]` in 0..1."""
    frames = vae.decode(latents.unbind()[0] if latents.is_nested else latents)
    made: Frames = frames.reshape(-1, *frames.shape[-3:]).float().clamp(0, 1).cpu().numpy()
    return made


class Progress:
    """Of a node: its bar, and the line below it. A person's Cancel comes out of it as ComfyUI's own exception.

    Args:
        node: its id.
        total: steps, at most.
    """

    def __init__(self, node: Any, total: int) -> None:
        self._node, self._total = node, total
        self._bar = comfy.utils.ProgressBar(total)

    def at(self, done: int) -> None:
        """So many steps are done."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(min(done, self._total), self._total)

    def say(self, text: str) -> None:
        """Show a line on the node, where the front end has a place for it."""
        server: Any = getattr(sys.modules.get("server"), "PromptServer", None)  # none where nodes run by themselves
        if getattr(server, "instance", None) is not None and self._node is not None:
            server.instance.send_progress_text(text, self._node)
