"""What is run: bare denoisers of the zoo forward by forward, pipelines whole; alone, guided, in a batch, broken off."""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bwcache
from benchmarks.goldens.policies import POLICIES

STEPS = 8
ROOT = Path(__file__).parents[2]

Inputs = dict[str, Any]
Made = list[list[Tensor]]
"""The tensors of each forward, or of each call."""


class BrokenOff(Exception):
    """Raised on purpose in the middle of a run."""


@dataclass(frozen=True)
class Case:
    """One run under one policy: what came out, and what was decided.

    Attributes:
        name: such as "model/WanTransformer3DModel/alone/bwcache".
        run: makes it anew.
    """

    name: str
    run: Callable[[], tuple[Made, list[Any]]]


@dataclass(frozen=True)
class Subject:
    """A denoiser or a pipeline with all its cases; `cases()` builds it."""

    name: str
    cases: Callable[[], Iterable[Case]]


def subjects(quick: bool = False) -> list[Subject]:
    """All there are in the zoo, or a few that stand for them."""
    zoo, tiny = _zoo()
    models = [_denoiser(model) for model in zoo.MODELS if not quick or model.name in QUICK]
    whole = [_pipeline(case, WHOLE) for case in (*tiny.CASES, tiny.VIDEO_TO_VIDEO)]
    others = [case for case in zoo.PIPELINES if case is not tiny.VIDEO_TO_VIDEO]
    return [*models, *whole, *(_pipeline(case, BRIEF) for case in others if not quick or case.name in QUICK)]


def digest(tensors: Iterable[Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of tensors: shapes, dtypes and bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _zoo() -> tuple[Any, Any]:
    """The builders of the tests."""
    if not (ROOT / "tests" / "__init__.py").exists():  # before they were a package
        sys.path.insert(0, str(ROOT / "tests"))
        return importlib.import_module("zoo"), importlib.import_module("tiny")
    return importlib.import_module("tests.zoo"), importlib.import_module("tests.tiny")


# --- bare denoisers -------------------------------------------------------------------------------------------------

QUICK = {
    "CogVideoXTransformer3DModel", "GlmImageTransformer2DModel", "FluxTransformer2DModel", "Flux2Transformer2DModel",
    "HiDreamImageTransformer2DModel", "HunyuanVideoTransformer3DModel", "Kandinsky6Transformer3DModel",
    "LatteTransformer3DModel", "LTX2VideoTransformer3DModel", "ErnieImageTransformer2DModel", "Open-Sora STDiT",
    "Open-Sora STDiT3", "LTX-Video Transformer3DModel", "MAGI-1 VideoDiTModel", "CogVideo DiffusionTransformer",
    "QwenImage21Transformer2DModel", "SD3Transformer2DModel", "UNetMotionModel", "UNet2DConditionModel",
    "WanTransformer3DModel", "WanVACETransformer3DModel", "AnyFlowFARTransformer3DModel",
    "WanAnimate2Transformer3DModel", "Flux2Pipeline", "GlmImagePipeline", "LTX2Pipeline guided",
    "StableDiffusion3PAGPipeline", "stable_diffusion_pndm", "SkyReelsV2DiffusionForcingPipeline", "HeliosPipeline",
    "WanVACEPipeline",
}  # fmt: skip
"""One for each thing that a row of the model table can say, and pipelines whose loops are unlike the others'."""

ALONE = tuple(name for name in POLICIES if name not in ("scheduled in turn", "bwcache per branch"))
APART = ("bwcache", "bwcache .15", "bwcache per branch", "adaptive", "linear")
TOGETHER = ("bwcache", "adaptive", "linear")
BATCH = ("bwcache .15", "adaptive", "scheduled in turn")
BROKEN = ("bwcache", "adaptive", "linear")
HALF = ("bwcache", "adaptive", "linear")


def _denoiser(model: Any) -> Subject:
    return Subject(f"model/{model.name}", lambda: _Denoiser(model).cases())


class _Denoiser:
    """A bare denoiser of the zoo, and the inputs of its runs."""

    def __init__(self, model: Any) -> None:
        self.model, self.module = model, model.build()
        self.once = [model.inputs(i / STEPS) for i in range(STEPS)]

    def cases(self) -> Iterator[Case]:
        """The cases, in an order in which each leaves the module as it was."""
        yield from self._cases("alone", ALONE, self.once)
        other = [_changed(given, self.once[0]) for given in self.once]
        apart = [given for pair in zip(self.once, other, strict=True) for given in pair]
        yield from self._cases("guided in two", APART, apart, per_sample=False)
        together = [_doubled(given, _latents(given)) for given in self.once]
        if self._takes(together):
            yield from self._cases("guided in one", TOGETHER, together)
        batch = [_doubled(given, None) for given in self.once]
        if self._takes(batch):
            yield from self._cases("batch of two", BATCH, batch)
        for name in BROKEN:
            yield Case(f"model/{self.model.name}/broken off/{name}", functools.partial(self._broken, name))
        half = [_mapped(_halved, given) for given in self.once]
        self.module = self.module.to(torch.bfloat16)
        if self._takes(half):
            yield from self._cases("bfloat16", HALF, half)

    def _cases(self, scenario: str, names: Iterable[str], inputs: list[Inputs], **settings: Any) -> Iterator[Case]:
        for name in names:
            run = functools.partial(self._attached, name, inputs, **settings)
            yield Case(f"model/{self.model.name}/{scenario}/{name}", run)

    def _attached(self, name: str, inputs: list[Inputs], **settings: Any) -> tuple[Made, list[Any]]:
        with bwcache.attach(self.module, POLICIES[name], steps=STEPS, **settings) as session, session.run(STEPS):
            made = self._forwards(inputs)
        return made, session.traces

    def _broken(self, name: str) -> tuple[Made, list[Any]]:
        """A run that breaks off in the middle of a forward, and a whole one after it."""
        middle = _middle(lambda: self._forwards(self.once[:1]), self.module)
        with bwcache.attach(self.module, POLICIES[name], steps=STEPS) as session:
            hook = middle.register_forward_pre_hook(_raises_in_call(STEPS // 2))
            try:
                made = self._forwards(self.once)
            except BrokenOff:
                made = []
            finally:
                hook.remove()
            made += self._forwards(self.once)
        return made, session.traces

    def _takes(self, inputs: list[Inputs]) -> bool:
        try:
            return all(tensor.isfinite().all() for tensor in self._forwards(inputs[:1])[0])
        except Exception:
            return False

    def _forwards(self, inputs: list[Inputs]) -> Made:
        with torch.no_grad():
            return [_tensors(self.module(**_mapped(torch.clone, given))) for given in inputs]


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in an output, in order."""
    if isinstance(value, Tensor):
        return [value.clone()]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for each in values for tensor in _tensors(each)]


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(change, item) for item in value)
    return {key: _mapped(change, item) for key, item in value.items()} if isinstance(value, dict) else value


def _other(value: Tensor) -> Tensor:
    """Of what is more than a list of numbers, other ones."""
    return value.roll(1, -1) * 0.9 if value.is_floating_point() and value.ndim >= 3 else value


def _changed(given: Inputs, first: Inputs) -> Inputs:
    """Other numbers in all that stays the same over the run; what does not is the time."""
    stays = {key for key, value in given.items() if not isinstance(value, Tensor) or torch.equal(value, first[key])}
    return {key: _mapped(_other, value) if key in stays else value for key, value in given.items()}


def _latents(given: Inputs) -> Tensor | None:
    """What the denoiser works on: the first tensor of at least three sizes."""
    return next((value for value in given.values() if isinstance(value, Tensor) and value.ndim >= 3), None)


def _doubled(given: Inputs, same: Tensor | None) -> Inputs:
    """Two samples in place of each, the second with other numbers; or two branches of each, on the `same` latents."""
    latents = _latents(given)
    rows = 0 if latents is None else len(latents)

    def both(value: Tensor) -> Tensor:
        if value.ndim == 0 or len(value) != rows:
            return value
        other = value if value is same else _other(value)
        return torch.cat([value, other]) if same is not None else torch.stack([value, other], 1).flatten(0, 1)

    return _mapped(both, given)


def _halved(value: Tensor) -> Tensor:
    return value.bfloat16() if value.is_floating_point() and value.ndim >= 2 else value


def _middle(forward: Callable[[], Any], module: nn.Module) -> nn.Module:
    """The module without parts whose call is the middle one of a forward."""
    called: list[nn.Module] = []
    leaves = [part for part in module.modules() if not list(part.children())]
    hooks = [part.register_forward_pre_hook(lambda part, _: called.append(part)) for part in leaves]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return called[len(called) // 2]


def _raises_in_call(last: int) -> Callable[..., None]:
    """Raises in the call of this number, from 1."""
    calls: list[int] = []

    def hook(*_: Any) -> None:
        calls.append(1)
        if len(calls) == last:
            raise BrokenOff

    return hook


# --- pipelines ------------------------------------------------------------------------------------------------------

WHOLE: dict[str, Any] = {
    "as it is": ({}, tuple(POLICIES)),
    "unguided": ({"guidance_scale": 1.0}, ("bwcache", "adaptive")),
    "batch of two": ({"num_videos_per_prompt": 2}, ("bwcache .15", "adaptive", "scheduled in turn")),
    "broken off": (None, ("bwcache", "adaptive", "linear")),
    "bfloat16": ({}, ("bwcache", "adaptive")),
}
BRIEF: dict[str, Any] = {"as it is": ({}, ("bwcache", "adaptive")), "broken off": (None, ("linear",))}
"""Scenario -> changes of the call (None: broken off), and policies."""


def _pipeline(case: Any, scenarios: dict[str, Any]) -> Subject:
    def cases() -> Iterator[Case]:
        for scenario, (changes, names) in scenarios.items():
            for name in names:
                run = functools.partial(_called, case, name, changes, scenario == "bfloat16")
                yield Case(f"pipeline/{case.name}/{scenario}/{name}", run)

    return Subject(f"pipeline/{case.name}", cases)


def _called(case: Any, name: str, changes: Inputs | None, half: bool) -> tuple[Made, list[Any]]:
    pipe = case.build()
    if half:
        pipe.to(torch.bfloat16)
        case = _in_half(case)
    with bwcache.attach(pipe, POLICIES[name]) as session:
        if changes is None:
            with _breaking_off(pipe.scheduler):
                case.run(pipe)
        made = case.run(pipe, **_batch(case, changes or {}))
    return [[made]], session.traces


def _batch(case: Any, changes: Inputs) -> Inputs:
    """Where a pipeline cannot make several videos of given embeddings: the embeddings of as many prompts."""
    if case.name not in ("ltx", "mochi") or "num_videos_per_prompt" not in changes:
        return changes
    given = {key: value for key, value in case.call.items() if "prompt" in key}
    return {key: torch.cat([value] * changes["num_videos_per_prompt"]) for key, value in given.items()}


def _in_half(case: Any) -> Any:
    return replace(case, call=_mapped(_halved, case.call))


@contextmanager
def _breaking_off(scheduler: Any) -> Iterator[None]:
    """The fifth step of the scheduler raises, and the exception goes no further than this."""
    step = scheduler.step
    raises = _raises_in_call(5)

    @functools.wraps(step)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        raises()
        return step(*args, **kwargs)

    scheduler.step = stepped
    try:
        yield
    except BrokenOff:
        pass
    finally:
        del scheduler.step
