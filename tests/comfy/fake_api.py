"""`comfy_api.latest` and `folder_paths` as far as nodes are declared with them: keeps what it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

import bwcache.comfy
from tests.comfy import look_alike


class Told:
    """An input or output, with all that was said of it."""

    extra_dict: dict[str, Any]

    def __init__(self, id: str = "", **said: Any) -> None:
        assert not {"advanced", "extra_dict"} & said.keys()  # ComfyUI 0.3.64 takes neither of them everywhere
        self.id, self.said, self.extra_dict = id, said, {}


def _kind(name: str) -> Any:
    return SimpleNamespace(
        name=name, Input=type(f"{name}Input", (Told,), {}), Output=type(f"{name}Output", (Told,), {})
    )


class ComfyNode:
    """What nodes derive from."""

    hidden = None


class NodeOutput:
    """What a node returns."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class Shown:
    """What a node shows."""

    def __init__(self, value: Any, **_: Any) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        """As the front end gets it."""
        return {"text": (self.value,)} if isinstance(self.value, str) else {"images": [tuple(self.value.shape)]}


def comfy() -> dict[str, Any]:
    """The package `comfy` as far as a node samples with it: the look-alike's sampling under ComfyUI's names."""
    parts = {name: ModuleType(f"comfy.{name}") for name in ("model_management", "sample", "samplers", "utils")}
    vars(parts["model_management"]).update(throw_exception_if_processing_interrupted=lambda: None)
    vars(parts["sample"]).update(
        fix_empty_latent_channels=lambda model, latents: latents,
        prepare_noise=lambda latents, seed: torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)),
        sample=sample,
    )
    listed = SimpleNamespace(SAMPLERS=list(SAMPLERS), SCHEDULERS=["simple", "beta"])
    vars(parts["samplers"]).update(KSampler=listed, sampler_object=lambda name: look_alike.Sampler(SAMPLERS[name]))
    bar = SimpleNamespace(update_absolute=lambda done, total: None)
    vars(parts["utils"]).update(ProgressBar=lambda total: bar, PROGRESS_BAR_ENABLED=True)
    whole = ModuleType("comfy")
    vars(whole).update(parts)
    return {"comfy": whole, **{f"comfy.{name}": part for name, part in parts.items()}}


def ancestral(model: Any, x: Any, sigmas: Any, extra_args: Any, callback: Any, disable: Any) -> Any:
    """Adds noise in each step."""
    generator = torch.Generator().manual_seed(extra_args["seed"])
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma.expand(len(x)), **extra_args)
        if callback:
            callback({"i": i, "denoised": denoised, "x": x})
        x = (1 - after) * denoised + after * torch.randn(x.shape, generator=generator)
    return x


SAMPLERS = {
    "euler": look_alike.euler,
    "heun": look_alike.heun,
    "unforeseen": look_alike.unforeseen,
    "ancestral": ancestral,
}


def sample(
    model: Any,
    noise: Any,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Any,
    negative: Any,
    latent_image: Any,
    denoise: float,
    callback: Any,
    disable_pbar: bool,
    seed: int,
) -> Any:
    """One sampling, as `comfy.sample.sample` makes it."""
    shift = 5 if scheduler == "simple" else 3
    even = [(1 - i / steps) * denoise for i in range(steps + 1)]
    sigmas = torch.tensor([shift * t / (1 + (shift - 1) * t) for t in even])
    wanted, unwanted = ([look_alike.Prompt(tensor) for tensor, _ in one] for one in (positive, negative))
    guider = look_alike.Guider(model, wanted, unwanted, cfg)
    sampler = look_alike.Sampler(SAMPLERS[sampler_name])
    with torch.inference_mode():
        return guider.sample(
            noise, sigmas, sampler, lambda said: callback(said["i"], said["denoised"], said["x"], steps)
        )


@contextmanager
def comfy_api(output: Path) -> Iterator[Any]:
    """The nodes, loaded with stand-ins for what only ComfyUI has; `output` is its output folder."""
    kinds = ("Model", "Combo", "Float", "Int", "Boolean", "String", "Latent", "Image", "Conditioning", "Vae")
    io = SimpleNamespace(
        ComfyNode=ComfyNode,
        NodeOutput=NodeOutput,
        Custom=_kind,
        Schema=SimpleNamespace,
        Hidden=SimpleNamespace(unique_id="UNIQUE_ID"),
        **{kind: _kind(kind) for kind in kinds},
    )
    latest = ModuleType("comfy_api.latest")
    vars(latest).update(ComfyExtension=object, io=io, ui=SimpleNamespace(PreviewText=Shown, PreviewImage=Shown))
    paths = ModuleType("folder_paths")
    folders: dict[str, list[str]] = {}
    vars(paths).update(
        get_output_directory=lambda: str(output),
        models_dir=str(output.parent / "models"),
        folder_names_and_paths=folders,
        add_model_folder_path=lambda name, path: folders.setdefault(name, []).append(path),
        get_folder_paths=lambda name: folders[name],
    )
    fakes = {"comfy_api": ModuleType("comfy_api"), "comfy_api.latest": latest, "folder_paths": paths, **comfy()}
    ours = ("bwcache.comfy.nodes", "bwcache.comfy.tune_node", "bwcache.comfy.host")
    before = {name: sys.modules.get(name) for name in (*fakes, *ours)}
    for name in ours:
        sys.modules.pop(name, None)
        vars(bwcache.comfy).pop(name.rpartition(".")[2], None)
    sys.modules.update(fakes)
    try:
        import bwcache.comfy.nodes as nodes

        yield nodes
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
