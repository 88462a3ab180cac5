"""A real ComfyUI in this process, if `BWCACHE_COMFYUI` names a checkout, and tiny models through its own loader."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.comfy.torchvision_beside_cpu import make_importable

CHECKOUT = os.environ.get("BWCACHE_COMFYUI", "")

needs_comfyui = pytest.mark.skipif(
    not CHECKOUT, reason="BWCACHE_COMFYUI names no checkout of ComfyUI: see CONTRIBUTING.md, ComfyUI"
)


@cache
def comfy() -> Any:
    """ComfyUI's package, imported as its own main program would on a machine without a GPU."""
    path = Path(CHECKOUT).expanduser()
    if not (path / "comfy" / "samplers.py").exists():
        pytest.fail(f"found no ComfyUI in BWCACHE_COMFYUI={CHECKOUT}; expected a checkout; name its folder")
    make_importable()
    sys.path.insert(0, str(path))
    before, sys.argv = sys.argv, ["main.py", "--cpu"]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        for name in ("sample", "samplers", "sd"):
            importlib.import_module(f"comfy.{name}")
    finally:
        sys.argv = before
    return sys.modules["comfy"]


def filled(module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights that keep activations near one."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if "modulation" in name:
            made[name] = 0.3 * noise
        elif value.ndim > 1:
            made[name] = noise / value[0].numel() ** 0.5
        else:
            made[name] = 1 + 0.1 * noise if "norm" in name else 0.1 * noise
    return made


def wan(layers: int = 4, **more: Any) -> Any:
    """A tiny Wan, found by ComfyUI from its weights alone."""
    sd = comfy().sd
    from comfy import ops
    from comfy.ldm.wan import model

    kind = model.VaceWanModel if more.get("vace_layers") else model.WanModel
    own = kind(
        model_type="vace" if more.get("vace_layers") else "t2v",
        dim=128,
        ffn_dim=256,
        num_heads=1,
        num_layers=layers,
        text_dim=4096,
        freq_dim=256,
        operations=ops.disable_weight_init,
        dtype=torch.float32,
        device="cpu",
        **more,
    )
    return sd.load_diffusion_model_state_dict(filled(own))


def made(kind: str, config: dict[str, Any]) -> Any:
    """A tiny model of a class of `comfy.supported_models`, for which ComfyUI's loader knows full sizes only."""
    comfy()
    models = importlib.import_module("comfy.supported_models")
    patcher = importlib.import_module("comfy.model_patcher")
    while True:
        asked = getattr(models, kind)(dict(config))
        asked.set_inference_dtype(torch.float32, None)
        asked.custom_operations = importlib.import_module("comfy.ops").disable_weight_init
        try:
            model = asked.get_model({}, "")
            break
        except TypeError as error:  # an older ComfyUI has fewer settings
            unknown = re.search("unexpected keyword argument '(.*)'", str(error))
            if unknown is None:
                raise
            config = {name: value for name, value in config.items() if name != unknown[1]}
    model.diffusion_model.load_state_dict(filled(model.diffusion_model), strict=False)
    return patcher.ModelPatcher(model.float().eval(), torch.device("cpu"), torch.device("cpu"))


def text(seed: int, tokens: int = 12, width: int = 4096, **more: Any) -> list[Any]:
    """Conditioning of a prompt that nobody wrote."""
    return [[torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed)), more]]


POSITIVE, NEGATIVE = 1, 2


@dataclass
class Sample:
    """One sampling as a KSampler node makes it."""

    steps: int = 8
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "simple"
    positive: Any = None
    negative: Any = None
    shape: tuple[int, ...] = (1, 16, 2, 8, 8)
    sound: tuple[int, ...] | None = None
    seed: int = 3
    more: dict[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def of(self, model: Any, **changed: Any) -> torch.Tensor:
        """The latents, of picture and sound in one row; ComfyUI runs all nodes so."""
        sample = comfy().sample
        latents: Any = torch.zeros(self.shape)
        if self.sound is not None:
            nested = importlib.import_module("comfy.nested_tensor").NestedTensor
            latents = nested([latents, torch.zeros(self.sound)])
        noise = sample.prepare_noise(latents, self.seed)
        made = sample.sample(
            model,
            noise,
            self.steps,
            self.cfg,
            self.sampler,
            self.scheduler,
            self.positive or text(POSITIVE),
            self.negative or text(NEGATIVE),
            latents,
            seed=self.seed,
            disable_pbar=True,
            **self.more,
            **changed,
        )
        parts = made.unbind() if self.sound is not None else [made]
        return parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts])


@dataclass
class Witness:
    """Sees each forward of the model from ComfyUI's side, and whether its blocks ran.

    Attributes:
        forwards: (sigma, what each row is of, whether the last block ran), in order.
    """

    forwards: list[tuple[float, tuple[Any, ...], bool]] = field(default_factory=list)

    def stale(self) -> list[tuple[float, tuple[Any, ...]]]:
        """Forwards that were reused though nothing of the like had been computed."""
        seen: set[Any] = set()
        wrong = []
        for sigma, parts, ran in self.forwards:
            if ran:
                seen |= set(parts)
            elif not set(parts) <= seen:
                wrong.append((sigma, parts))
        return wrong

    @property
    def computed(self) -> list[float]:
        """The sigmas at which anything was computed, each once for each time that it came."""
        return [sigma for sigma, _, ran in self.forwards if ran]


@contextmanager
def witnessed(
    model: Any, block: Callable[[Any], torch.nn.Module], also: Callable[[Any, Any], Any] = lambda base, args: None
) -> Iterator[tuple[Any, Witness]]:
    """A clone of a model whose forwards are seen.

    Args:
        model: a patcher.
        block: finds a block that runs only where the model is computed.
        also: of the base model and the arguments of a forward: what else its features hold.
    """
    witness, ran = Witness(), [False]
    clone = model.clone()
    hook = block(model.model.diffusion_model).register_forward_pre_hook(lambda *_: ran.__setitem__(0, True))

    def see(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[5]
        window = getattr(options.get("context_window"), "index_list", None)
        more = also(executor.class_obj, args)
        parts = tuple((str(one), None if window is None else tuple(window), more) for one in options["uuids"])
        ran[0] = False
        made = executor(*args, **kwargs)
        witness.forwards.append((float(args[1].flatten()[0]), parts, ran[0]))
        return made

    clone.add_wrapper_with_key("apply_model", "witness", see)
    try:
        yield clone, witness
    finally:
        hook.remove()
