"""Plans as files beside the models: what each was made for, and whether it is sampled with that again."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bwcache.comfy.noise_levels import NoiseLevels
from bwcache.comfy.rehearsal import sampler_name
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.models import uncompiled
from bwcache.models.weights import WeightSample, sample_of
from bwcache.policies.policy_file import SUFFIX
from bwcache.policies.tuned import Tuned, alike
from bwcache.policies.tuned_file import TunedFile, read_tuned

NONE = "none"
"""What the node shows where no plan is chosen."""
HOST = "ComfyUI"
AGAIN = "sample as it was tuned, or make a plan for this with the BWCache Tune node"
ENTRIES = 16


@dataclass(frozen=True)
class KeptPlan:
    """A plan that a person chose.

    Attributes:
        name: of the file, without its suffix.
        file: what it holds.
    """

    name: str
    file: TunedFile

    @property
    def policy(self) -> Tuned:
        """What it amounts to."""
        return self.file.policy

    def expect_model(self, model: Any) -> None:
        """Raises `SettingError` for another model than it was made for: another class, or another architecture."""
        here, there = model_of(model), self.file.made_for
        if here["denoiser"] != there.get("denoiser"):
            found = f"{here['denoiser']} under the plan {self.name}"
            raise SettingError(complaint(found, str(there.get("denoiser")), "tune this model: BWCache Tune"))
        known = there.get("architecture") or {}
        for name in sorted(here["architecture"].keys() & known.keys()):
            if here["architecture"][name] != known[name]:
                found = f"another {here['denoiser']} ({name} {here['architecture'][name]}) under the plan {self.name}"
                raise SettingError(complaint(found, f"{name} {known[name]}", "tune this model: BWCache Tune"))

    def other_weights(self, model: Any) -> str:
        """Return what to say where it was made for other weights, such as a fine-tune or another LoRA; else ""."""
        here, there = model_of(model), self.file.made_for
        own, of_plan = (WeightSample.from_json(one.get("weight_sample")) for one in (here, there))
        same = None if own is None or of_plan is None else own.same_as(of_plan)
        if same is False or here["loras"] != there.get("loras", here["loras"]):
            return f"the plan {self.name} was made for other weights or LoRAs of {here['denoiser']}: compare once"
        return ""

    def expect_sampling(self, sampler: Any, sigmas: Iterable[float], levels: NoiseLevels) -> None:
        """Raises `SettingError` for another sampling than it was made for, before anything is evaluated."""
        there = self.file.made_for
        asked: Mapping[str, Any] = there.get("request") or {}
        shares = tuple(levels.share(float(sigma)) for sigma in sigmas)
        steps, name = len(shares) - 1, sampler_name(sampler)
        made_with = f"{asked.get('steps')} steps, {asked.get('sampler')}, {asked.get('scheduler')}"
        if name != there.get("sampler"):
            found = f"sampler {name} under the plan {self.name}"
            raise SettingError(complaint(found, f"{there.get('sampler')} ({made_with})", AGAIN))
        if steps != len(self.policy.schedule) - 1:
            found = f"{steps} steps under the plan {self.name}"
            raise SettingError(complaint(found, f"{len(self.policy.schedule) - 1} ({made_with})", AGAIN))
        if not alike(shares, self.policy.schedule):
            found = f"another scheduler, shift or denoise under the plan {self.name} (noise {_few(shares)})"
            raise SettingError(complaint(found, f"that of {made_with} (noise {_few(self.policy.schedule)})", AGAIN))


def _few(shares: tuple[float, ...]) -> str:
    return ", ".join(f"{share:.3f}" for share in (*shares[:3], shares[-2])) if len(shares) > 3 else str(shares)


def names(folders: Iterable[Path]) -> list[str]:
    """Return the plans that there are, and "none" before them."""
    found = {path.stem for folder in folders for path in folder.glob(f"*{SUFFIX}")}
    return [NONE, *sorted(found - {NONE})]


def path_of(folders: Iterable[Path], name: str) -> Path:
    """Return where a plan is; where it is not there yet, where it goes.

    Raises:
        SettingError: the name is none of a file.
    """
    if not name.strip() or name != Path(name).name or name.startswith(".") or name == NONE:
        raise SettingError(complaint(f"name {shown(name)}", "the name of a plan", "such as wan_20_steps"))
    paths = [folder / f"{name}{SUFFIX}" for folder in folders]
    return next((path for path in paths if path.exists()), paths[0])


def read_plan(folders: Iterable[Path], name: str) -> KeptPlan:
    """Return a plan by name.

    Raises:
        SettingError: it is not there, cannot be read, or was not made in ComfyUI.
    """
    folders = list(folders)
    path = path_of(folders, name)
    if not path.exists():
        there = ", ".join(names(folders)[1:]) or "one that the BWCache Tune node made"
        raise SettingError(complaint(f"no plan {name}", there, "choose another, or tune for it"))
    file = read_tuned(path)
    if file.made_for.get("host") != HOST:
        found = f"a plan {name} that was not made in ComfyUI"
        raise SettingError(complaint(found, "one of the BWCache Tune node", "make one with that node"))
    return KeptPlan(name, file)


def model_of(model: Any) -> dict[str, Any]:
    """Return by what a model patcher's model is known again: class, architecture, weights, LoRAs."""
    module = uncompiled(model.get_model_object("diffusion_model"))
    settings = getattr(getattr(model.model, "model_config", None), "unet_config", None) or {}
    weights = {name: _unpatched(model, f"diffusion_model.{name}", value) for name, value in module.named_parameters()}
    sample = sample_of(weights)
    return {
        "model": type(model.model).__name__,
        "denoiser": type(module).__name__,
        "weight_sample": None if sample is None else sample.to_json(),
        "loras": digest(getattr(model, "patches", None) or {}),
        "architecture": {str(name): value for name, value in sorted(settings.items()) if _plain(value)},
    }


def _unpatched(model: Any, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight as it was before LoRAs were added to it in place."""
    kept = (getattr(model, "backup", None) or {}).get(name)
    found = getattr(kept, "weight", kept)
    return found if isinstance(found, torch.Tensor) else weight


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None)))


def digest(value: Any) -> str:
    """Return 8 hexadecimal digits of tensors, numbers and words in one another; of other things the class counts."""
    return f"{_sum(value, 0):08x}"


def _sum(value: Any, seen: int) -> int:
    if getattr(value, "is_nested", False):  # of picture and sound
        return _sum(list(value.unbind()), seen)
    if isinstance(value, torch.Tensor):
        flat = value.detach().flatten()
        places = torch.linspace(0, max(flat.numel() - 1, 0), min(ENTRIES**2, flat.numel())).long().to(flat.device)
        return zlib.crc32(f"{tuple(value.shape)} {flat[places].float().cpu().tolist()}".encode(), seen)
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            seen = _sum(value[name], zlib.crc32(str(name).encode(), seen))
        return seen
    if isinstance(value, (list, tuple)):
        for one in value:
            seen = _sum(one, seen)
        return seen
    if hasattr(value, "weights"):  # of a LoRA
        return _sum(value.weights, seen)
    return zlib.crc32((repr(value) if _plain(value) else type(value).__name__).encode(), seen)
