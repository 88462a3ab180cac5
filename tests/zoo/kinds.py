"""What a family's file says of each denoiser and each pipeline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bwcache.models import BlockStack, Place, resolve
from tests.tiny import Case, noise, seeded

__all__ = ["Model", "Pipeline", "noise", "seeded", "without_zeros"]


@dataclass(frozen=True)
class Pipeline(Case):
    """A pipeline with tiny components, and how it is called.

    Attributes:
        loops: how often one call goes through its schedule: each time is a run of its own.
    """

    loops: int = 1

    def run(self, pipe: Any, seed: int = 0, **changes: Any) -> Tensor:
        """The latents, or else the pictures; some pipelines draw from the global generator too."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = super().run(pipe, seed, **changes)
        return torch.cat(made) if isinstance(made, list) else torch.as_tensor(made)


@dataclass(frozen=True)
class Model:
    """A bare denoiser with a tiny random config.

    Attributes:
        name: unique; the class name, and after a space the variant, such as "WanTransformer3DModel I2V".
        build: makes it, always with the same weights (`seeded`), at least 3 blocks in each list where it has one.
        inputs: keyword arguments of its forward at a share 0..1 of the run: time goes on as the pipeline's does, in its
            own direction and scale, all else may stay as it is; the same share gives the same values.
        guidance: how the pipelines run guidance: "batched", "separate", "either" or "none".
    """

    name: str
    build: Callable[[], Any]
    inputs: Callable[[float], dict[str, Any]]
    guidance: str = "none"

    @functools.cached_property
    def stack(self) -> BlockStack:
        """The stack of a denoiser that nobody runs or changes: to look at."""
        return resolve("model", self.build())

    def run(self, module: Any, share: float) -> list[Tensor]:
        """All tensors of one forward's output."""
        with torch.no_grad():
            return tensors(module(**self.inputs(share)))


def without_zeros(build: Callable[[], Any], std: float = 0.1) -> Any:
    """As `seeded`, with random numbers where a new module has zeros (gates, ControlNets), so that it says something."""

    def built() -> Any:
        module = build()
        for parameter in module.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=std)
        return module

    return seeded(built)


def tensors(value: Any) -> list[Tensor]:
    """All tensors in an output, in order: of tuples, lists, dictionaries and diffusers' output classes."""
    if isinstance(value, Tensor):
        return [value.clone()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    return []


def put_around(block: Place, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Sets `around(inner)` in the place of what runs as a block: its forward, or a function that is called for it."""
    hook = block.hook
    inner = block.module.forward if hook is None else hook.owner[hook.name]
    own = functools.wraps(inner)(around(inner))
    if hook is None:
        block.module.forward = own
        return

    @functools.wraps(inner)
    def called(*args: Any, **kwargs: Any) -> Any:
        return (own if int(kwargs[hook.index]) == hook.number else inner)(*args, **kwargs)

    hook.owner[hook.name] = called


def note_calls(block: Place, calls: list[str]) -> None:
    """Appends the block's name to `calls` each time that it runs."""

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append(block.name)
            return inner(*args, **kwargs)

        return noted

    put_around(block, around)
