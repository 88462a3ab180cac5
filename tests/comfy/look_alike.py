"""What ComfyUI promises to those who stand around its sampling, written anew: small, and without ComfyUI.

A patcher with clones and wrappers by key, wrapper points from the sampling down to one forward, batches of branches
that come together or apart, samplers of first and second order, and denoisers whose classes have the names, the
arguments and the lists of blocks that the rows speak of.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bwcache.models import BlockList, BlockSpec
from bwcache.models.families import comfyui
from bwcache.models.spec import Part

Wrapper = Callable[..., Any]
WIDTH = 8


class Executor:
    """Calls the wrappers from the outside in, and then the function itself."""

    def __init__(self, function: Callable[..., Any], owner: Any, wrappers: Sequence[Wrapper]) -> None:
        self.function, self.class_obj, self.wrappers = function, owner, list(wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.function(*args, **kwargs)
        inner = Executor(self.function, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](inner, *args, **kwargs)


def around(point: str, function: Callable[..., Any], owner: Any, options: dict[str, Any]) -> Executor:
    """The executor of a wrapper point."""
    by_key = options.get("transformer_options", options).get("wrappers", {}).get(point, {})
    return Executor(function, owner, [wrapper for own in by_key.values() for wrapper in own])


def _flow(self: Any, sigma: Tensor, output: Tensor, latents: Tensor) -> Tensor:
    return latents - output * sigma.view(-1, *(1,) * (latents.ndim - 1))


CONST = type("CONST", (), {"calculate_denoised": _flow, "__module__": "comfy.model_sampling"})
EDM = type("EDM", (), {"calculate_denoised": _flow, "__module__": "comfy.model_sampling"})


def sampling_of(kind: type) -> Any:
    """A `model_sampling` as ComfyUI makes it: a class of its own that derives from what it does."""
    own = {"__module__": "comfy.model_base", "timestep": lambda self, sigma: sigma * 1.0}
    return type("ModelSampling", (kind,), own)()


class Base:
    """A model with its sampling: runs the denoiser between the wrappers."""

    def __init__(self, denoiser: nn.Module, kind: type = CONST) -> None:
        self.diffusion_model, self.model_sampling = denoiser, sampling_of(kind)
        self.current_patcher: Any = None

    def apply_model(
        self, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
        transformer_options: Any = None, **more: Any,
    ) -> Tensor:  # fmt: skip
        """One forward."""
        options = transformer_options or {}
        executor = around("apply_model", self._apply, self, options)
        made: Tensor = executor(x, t, c_concat, c_crossattn, control, options, **more)
        return made

    def _apply(
        self, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any, options: Any, **more: Any
    ) -> Any:
        listed = getattr(
            self.diffusion_model, "takes_a_list", False
        )  # the first frame is the picture, the next the sound
        given: Any = list(x.split(1, 2)) if listed else x
        output = self.diffusion_model(
            given, t, context=c_crossattn, control=control, transformer_options=options, **more
        )
        return self.model_sampling.calculate_denoised(t, torch.cat(output, 2) if listed else output, x)


class Patcher:
    """Holds a model, and what is to be done around it."""

    def __init__(self, model: Base) -> None:
        self.model = model
        self.wrappers: dict[str, dict[str, list[Wrapper]]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.current_hooks: Any = None

    def clone(self) -> Patcher:
        """Another one of the same model."""
        made = Patcher(self.model)
        made.wrappers = {point: {key: list(own) for key, own in by.items()} for point, by in self.wrappers.items()}
        made.model_options = {
            **self.model_options,
            "transformer_options": {**self.model_options["transformer_options"]},
        }
        return made

    def add_wrapper_with_key(self, point: str, key: str, wrapper: Wrapper) -> None:
        """Another wrapper."""
        self.wrappers.setdefault(point, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, point: str, key: str) -> None:
        """Take away those of a key."""
        self.wrappers.get(point, {}).pop(key, None)

    def get_model_object(self, name: str) -> Any:
        """A part of the model."""
        return getattr(self.model, name)


@dataclass
class Prompt:
    """A conditioning: its embedding, which part of the run it is for, and what a ControlNet makes for it."""

    embedding: Tensor
    start: float = 0.0
    end: float = 1.0
    control: Callable[[float], Any] | None = None
    id: uuid.UUID = field(default_factory=uuid.uuid4)


def prompt(seed: int, **more: Any) -> Prompt:
    """One that nobody wrote."""
    return Prompt(torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(seed)), **more)


def euler(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
    """One evaluation a step."""
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma.expand(len(x)), **extra_args)
        if callback:
            callback({"i": i, "denoised": denoised, "x": x})
        x = x + (x - denoised) / sigma * (after - sigma)
    return x


def heun(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
    """Two evaluations a step, but for the last one."""
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        slope = (x - model(x, sigma.expand(len(x)), **extra_args)) / sigma
        if callback:
            callback({"i": i, "denoised": x, "x": x})
        there = x + slope * (after - sigma)
        if after > 0:
            slope = (slope + (there - model(there, after.expand(len(x)), **extra_args)) / after) / 2
        x = x + slope * (after - sigma)
    return x


def unforeseen(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
    """Goes where its own estimates lead it: a rehearsal foretells nothing."""
    sigma = sigmas[0]
    while sigma > 0.05:
        denoised = model(x, sigma.expand(len(x)), **extra_args)
        after = sigma * (0.6 + 0.1 * denoised.abs().mean().clamp(max=1))
        x, sigma = x + (x - denoised) / sigma * (after - sigma), after
    return x


class Sampler:
    """What a node hands on as a sampler."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.sampler_function, self.extra_options = function, {}

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, latent_image: Any = None,
        denoise_mask: Any = None, disable_pbar: Any = False,
    ) -> Tensor:  # fmt: skip
        """Sample."""
        return self.sampler_function(model_wrap, noise * sigmas[0], sigmas, extra_args, callback, disable_pbar)


class Guider:
    """Guidance: evaluates all branches of a prompt, together or apart."""

    def __init__(self, patcher: Patcher, positive: Sequence[Prompt], negative: Sequence[Prompt], scale: float) -> None:
        self.patcher, self.positive, self.negative, self.scale = patcher, positive, negative, scale
        self.inner_model = patcher.model
        self.apart: Callable[[int], bool] = lambda evaluation: False
        self._evaluation = -1

    def sample(self, noise: Tensor, sigmas: Tensor, sampler: Sampler, callback: Any = None) -> Tensor:
        """Sample, from the outermost wrapper point on."""
        options = {**self.patcher.model_options}
        options["transformer_options"] = {**options["transformer_options"], "wrappers": self.patcher.clone().wrappers}
        self._options, self._evaluation = options, -1
        self.inner_model.current_patcher = self.patcher

        def within() -> Tensor:
            extra = {"model_options": options, "seed": 0}
            executor = around("sampler_sample", sampler.sample, sampler, options)
            made: Tensor = executor(self, sigmas, extra, callback, noise, None, None, True)
            return made

        made: Tensor = around("outer_sample", within, self, options)()
        return made

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        made: Tensor = around("predict_noise", self._guided, self, self._options)(x, sigma, model_options, seed)
        return made

    def _guided(self, x: Tensor, sigma: Tensor, model_options: Any, seed: Any) -> Tensor:
        self._evaluation += 1
        share = 1 - float(sigma[0])
        chosen = [
            (kind, one)
            for kind, own in enumerate((self.positive, self.negative))
            for one in own
            if one.start <= share < one.end or (one.end == 1 and share >= 1)
        ]
        groups = [[one] for one in chosen] if self.apart(self._evaluation) else [chosen]
        denoised: dict[int, Tensor] = {}
        for group in groups:
            options = {**self._options["transformer_options"]}
            options |= {"cond_or_uncond": [kind for kind, _ in group], "uuids": [one.id for _, one in group]}
            options["sigmas"] = sigma
            control = next((one.control(float(sigma[0])) for _, one in group if one.control), None)
            text = torch.cat([one.embedding.expand(len(x), -1, -1) for _, one in group])
            made = self.inner_model.apply_model(
                torch.cat([x] * len(group)), torch.cat([sigma] * len(group)), None, text, control, options
            )
            denoised |= {kind: part for (kind, _), part in zip(group, made.chunk(len(group)), strict=True)}
        if 1 not in denoised:
            return denoised[0]
        return denoised[1] + self.scale * (denoised[0] - denoised[1])


def part_class(stream: str) -> type[nn.Module]:
    """A part of a block, that takes and returns one stream by this name."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.tanh(self.linear(args[0]))

    kinds = inspect.Parameter
    arguments = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("self", stream)]
    forward.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(WIDTH, WIDTH)

    return type("Part", (nn.Module,), {"__init__": init, "forward": forward})


def block_class(part: BlockList) -> type[nn.Module]:
    """A block that takes the streams of a list and returns them; "x[0]", "x[1]": as a pair in one argument."""
    returns, inside = part.returns, [own for own in part.parts.values() if isinstance(own, Part)]
    names = list(dict.fromkeys(name.partition("[")[0] for name in returns))

    def forward(self: Any, *streams: Any, context: Any = None, transformer_options: Any = None) -> Any:
        """Each stream a little further, by the others and the prompt."""
        text = 0 if context is None else context.mean(1, keepdim=True)
        streams = streams[0] if len(names) < len(returns) else streams
        for own in inside:
            streams = (streams[0] + 0.1 * getattr(self, own.path)(streams[0]), *streams[1:])
        made = tuple(stream + 0.3 * torch.tanh(self.linear(stream) + text) for stream in streams)
        return made if len(made) > 1 else made[0]

    arguments = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    arguments += [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in ("context", "transformer_options")
    ]
    forward.__signature__ = inspect.Signature(arguments + more)  # type: ignore[attr-defined]

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(WIDTH, WIDTH)
        for own in inside:
            setattr(self, own.path, part_class(own.returns[0])())

    return type("Block", (nn.Module,), {"__init__": init, "forward": forward})


def denoiser_class(row: BlockSpec) -> type[nn.Module]:
    """A denoiser that has the name, the arguments and the blocks of a row."""

    def init(self: Any, layers: int = 3) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(1, WIDTH), nn.Linear(WIDTH, 1)
        for part in row.lists:
            kind = block_class(part)
            setattr(self, part.path, nn.ModuleList(kind() for _ in range(layers)))

    def run(self: Any, latents: Any, time: Tensor, context: Any, options: Any) -> Any:
        if row.latents_listed:
            hidden = (self.enter(part.flatten(1).unsqueeze(-1)) + time.view(-1, 1, 1) for part in latents)
            pair = tuple(hidden)
            for block in getattr(self, row.lists[0].path):
                pair = block(pair, context=context, transformer_options=options)
            return [self.leave(own).squeeze(-1).view_as(part) for own, part in zip(pair, latents, strict=True)]
        hidden = self.enter(latents.flatten(1).unsqueeze(-1)) + time.view(-1, 1, 1)
        if row.batch_axis:  # a stream of the shape [T, H, W, B, C], of which this has [T, 1, 1, B, C]
            hidden = hidden.transpose(0, 1)[:, None, None]
        for part in row.lists:
            streams = dict.fromkeys(part.returns, hidden)
            for block in getattr(self, part.path):
                text = None if row.batch_axis else context
                made = block(*streams.values(), context=text, transformer_options=options)
                streams = dict(zip(part.returns, made if isinstance(made, tuple) else (made,), strict=True))
            hidden = streams[part.measured or row.measured]
        if row.batch_axis:
            hidden = hidden[:, 0, 0].transpose(0, 1)
        made = self.leave(hidden).squeeze(-1).view_as(latents)
        return made

    names = (row.latents, row.timestep)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        given = dict(zip((*names, "context"), args, strict=False)) | kwargs
        return run(self, given[names[0]], given[names[1]], given["context"], given.get("transformer_options"))

    kinds = inspect.Parameter
    arguments = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("self", *names, "context")]
    arguments += [kinds(name, kinds.POSITIONAL_OR_KEYWORD, default=None) for name in ("control", "transformer_options")]
    forward.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    own = {"__init__": init, "forward": forward, "__module__": f"{row.module_prefix}.model"}
    return type(row.model, (nn.Module,), {**own, "takes_a_list": row.latents_listed})


CLASSES = {f"{row.module_prefix}.{row.model}": denoiser_class(row) for row in comfyui.ROWS}
"""A look-alike of each class that has a row."""
SIGMAS = torch.tensor([5 * t / (1 + 4 * t) for t in (1 - i / 10 for i in range(11))])


def model(name: str = "comfy.ldm.wan.WanModel", kind: type = CONST) -> Patcher:
    """A patcher of a look-alike."""
    return Patcher(Base(CLASSES[name](), kind))


def sampled(
    patcher: Patcher,
    sampler: Callable[..., Tensor] = euler,
    positive: Sequence[Prompt] | None = None,
    apart: Callable[[int], bool] | None = None,
    sigmas: Tensor = SIGMAS,
    callback: Any = None,
    batch: int = 1,
) -> Tensor:
    """The latents of one sampling, `[B, 1, 2, 4, 4]`."""
    guider = Guider(patcher, positive or [prompt(1)], [prompt(2)], 3.0)
    guider.apart = apart or guider.apart
    noise = torch.randn(batch, 1, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        return guider.sample(noise, sigmas, Sampler(sampler), callback)
