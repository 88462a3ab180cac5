"""A forward of a denoiser that begins: what it is given, read once, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bwcache.engine.clock.host import Context, HostStep
from bwcache.engine.clock.latents import LatentsSample
from bwcache.engine.clock.times import HostTimesteps
from bwcache.features.noise_level import NoiseLevel
from bwcache.models import BlockStack

PLAIN = (Tensor, Parameter)
"""Tensors of torch's own, whose memory can be spoken of."""

PLAIN_VALUES = (bool, int, float, str, torch.dtype, torch.device, type(None))
"""What is no tensor, and is what it shows."""

Inputs = tuple[object, ...]
"""What is told of a forward's arguments: all but the numbers in its tensors."""


class _UnknownError(Exception):
    """An argument of which it cannot be said what it is."""


class Call:
    """A forward that begins.

    Attributes:
        stack: of the denoiser.
        args, kwargs: what it is given; `given`: the same, by name.
        time: its timestep.
        latents: what it works on, `[B, …]`: what the row names, or else the first tensor of at least three sizes that
            is no condition; or None.
        condition: what it is conditioned on.
        options: how it is asked to run, and which tensors it has. Numbers, and what is in tensors, are left out: they
            may change in every step (guidance scales, residuals).
        scheduler: of the pipeline that calls, or None.
        host, context: what is said around it, or None.
        name: of its branch, or None. A batch of several has all of their names in one.
        number: of its condition among those of the run, once it is asked for.
        jumped: whether its latents are of something else than those of its branch a step before, once it is asked for.
        kind: what kind of latents each lane has, once the lanes are known.
        doubt: why nothing older may be used in it, or None.
        level: the noise level of its latents, where the plan asks for it and it is known.
        agree: makes of what this rank sees of its own what all see that decide together.
        is_one_row: whether its batch has one row, or that cannot be told.
        inputs: all that shapes inside the denoiser can depend on, where somebody wants to know it.
    """

    def __init__(self, stack: BlockStack, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stack, self.args, self.kwargs = stack, args, kwargs
        given: Mapping[Any, Any] = kwargs
        if args:
            named = dict(zip(stack.argument_names, args, strict=False))
            given = {**named, **dict(enumerate(args[len(named) :], len(named))), **kwargs}
        self.given = given
        self.latents: Tensor | None = None
        self.options: dict[str | int, Any] = {}
        known, options = stack.known_arguments, self.options
        for name, value in given.items():
            if name in known:
                continue
            if value is None or value is True or value is False:
                options[name] = value
            elif isinstance(value, Tensor):
                options[name] = Tensor
                if self.latents is None and value.ndim >= 3:
                    self.latents = value
            else:
                options[name] = _option(value)
        said = given.get(stack.spec.latents)
        if isinstance(said, Tensor) and said.ndim >= 3:
            self.latents = said
        self.condition = Condition(given, stack.condition_names)
        self.time = Time(given.get(stack.timestep.name))
        self.scheduler: Any = None
        self.host: HostStep | None = None
        self.context: Context | None = None
        self.name: str | None = None
        self.number: int | None = None
        self.jumped: bool | None = None
        self.kind: object = None
        self.doubt: str | None = None
        self.level: NoiseLevel | None = None
        self.inputs: Inputs | None = None
        self.agree: Callable[[bool], bool] = bool
        self.is_one_row = self.latents is None or len(self.latents) == 1

    def begin(self, listed: HostTimesteps) -> None:
        """It begins a run: what was asked about it in another one does not count."""
        self.number, self.jumped = None, None
        self.time = Time(self.time.argument, listed)

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Return the same forward on other arguments."""
        made = Call(self.stack, args, kwargs)
        made.kind, made.doubt, made.level = self.kind, self.doubt, self.level
        made.scheduler, made.host = self.scheduler, self.host
        return made

    def note_inputs(self) -> Inputs | None:
        """Return `inputs`, and take note of them; None where they cannot be said.

        The time's own value is left out: it moves with every step.
        """
        module, time = self.stack.module, self.stack.timestep.name
        told: list[object] = []
        weight = next(module.parameters(), None)
        try:
            for name, value in self.given.items():
                if isinstance(value, Tensor):
                    told.append((name, value.shape, value.dtype, value.device))
                elif name == time:
                    told.append((name, type(value)))
                else:
                    told.append((name, (type(value), value) if isinstance(value, PLAIN_VALUES) else _told(value)))
        except _UnknownError:
            return None
        cast = torch.is_autocast_enabled()
        self.inputs = (self.stack.name, cast, None if weight is None else weight.dtype, *told)
        return self.inputs

    @cached_property
    def shapes(self) -> object:
        """Of all tensors that it is given, by name."""
        return {name: value.shape for name, value in self.given.items() if isinstance(value, Tensor)}

    @cached_property
    def sample(self) -> LatentsSample | None:
        """A few entries of its latents."""
        return (
            None
            if self.latents is None or self.latents.is_meta
            else LatentsSample(self.latents, channels(self.stack.module), self.agree)
        )

    @cached_property
    def gradient(self) -> bool:
        """Whether a gradient is being recorded."""
        flows = any(isinstance(value, Tensor) and value.requires_grad for value in self.given.values())
        return flows or any(parameter.requires_grad for parameter in self.stack.module.parameters())


class Time:
    """A timestep argument, read from the device at most once, and only if somebody asks."""

    __slots__ = ("_value", "argument", "listed")

    def __init__(self, argument: Any, listed: HostTimesteps | None = None) -> None:
        """`listed`: the scheduler's timesteps, one of which it may be."""
        self.argument, self.listed = argument, listed
        self._value: float | None = None

    @property
    def value(self) -> float | None:
        """The number; not read at all where the pipeline handed on one of the scheduler's."""
        if self._value is None:
            known = None if self.listed is None else self.listed.value(self.argument)
            self._value = scalar(self.argument) if known is None else known
        return self._value

    @property
    def place(self) -> int | None:
        """Which of the scheduler's timesteps it is, where the pipeline handed that on; else None."""
        return None if self.listed is None else self.listed.index(self.argument)

    @property
    def entries(self) -> int:
        """How many numbers there are: samples, frames or tokens may have times of their own."""
        parts = self.argument if isinstance(self.argument, tuple) else (self.argument,)
        return max((part.numel() for part in parts if isinstance(part, Tensor)), default=1)

    @property
    def mean(self) -> float:
        """Of all entries of a tensor; added up on the host, since not every device has numbers of 64 bits."""
        return float(self.argument.detach().cpu().flatten().to(torch.float64).mean())

    @property
    def is_rounded(self) -> bool:
        """Whether it is of a type that rounds neighbours to the same number."""
        return isinstance(self.argument, Tensor) and self.argument.dtype in (torch.bfloat16, torch.float16)

    def since(self, before: Time) -> int:
        """Return the sign of the change since another time; of the mean where the maximum stands still."""
        new, old = self.value, before.value
        if new is None or old is None:
            return 0
        if new == old and self.entries == before.entries > 1:
            new, old = self.mean, before.mean
        return (new > old) - (new < old)


def scalar(timestep: Any) -> float | None:
    """Return a timestep argument as a number: the maximum of one per sample, frame or token. Reads the device."""
    if timestep is None:
        return None
    if isinstance(timestep, (list, tuple)):
        return max((time for each in timestep if (time := scalar(each)) is not None), default=None)
    if isinstance(timestep, Tensor):
        if timestep.is_meta:
            return None
        if timestep.numel() == 1:
            return float(timestep.item())
        return float(timestep.max().item()) if timestep.numel() else None
    return float(timestep)


class Condition:
    """What a forward is conditioned on.

    Attributes:
        values: tensors, numbers and words, in order; lists and mappings laid out.
        place: where all that lies, and how often it was written into.
        is_traced: whether torch counts what is written into it. Not so in inference mode.
    """

    __slots__ = ("is_traced", "place", "values")

    def __init__(self, given: Mapping[Any, Any], names: Sequence[str]) -> None:
        values: list[Any] = []
        place: list[Any] = []
        self.is_traced = True
        self.values, self.place = values, place
        for name in names:
            value = given.get(name)
            if isinstance(value, (list, tuple, Mapping)):
                values.extend(item for _, item in leaves(value))
            else:
                values.append(value)
        for value in values:
            if value is None:
                place.append(None)
            elif type(value) in PLAIN and not value.is_meta:
                version = None
                if value.is_inference():
                    self.is_traced = False
                else:
                    version = value._version
                place.append((value.data_ptr(), version, value.shape, value.stride(), value.dtype))
            else:
                place.append(shape(value))


def _told(value: object) -> object:
    if isinstance(value, PLAIN_VALUES):
        return (type(value), value)
    if isinstance(value, Tensor):
        return (value.shape, value.dtype, value.device)
    if type(value) is list or type(value) is tuple:
        return (type(value), *map(_told, value))
    if type(value) is dict:
        return tuple((key, _told(item)) for key, item in value.items())
    raise _UnknownError


def shape(value: Any) -> Any:
    """Return what can be told of a value without a look at a tensor's numbers."""
    if isinstance(value, Tensor):
        return (type(value), value.shape, value.dtype, value.device, *([] if type(value) in PLAIN else [id(value)]))
    return value if isinstance(value, (bool, int, float, str)) else type(value)


def channels(module: Any) -> int | None:
    """Return how many channels a denoiser makes; what a pipeline lays behind these (an image to go by) may differ."""
    made = getattr(getattr(module, "config", None), "out_channels", None)
    return made if isinstance(made, int) else None


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in lists, tuples and mappings, each with where it stands."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from leaves(item, f"{name}.{i}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}")
    else:
        yield name, value


def _option(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, (list, tuple)):
        whole = all(type(item) is int for item in value)
        return tuple(value) if whole else tuple([_option(item) for item in value])
    if isinstance(value, Mapping):
        return {key: _option(item) for key, item in value.items()}
    return type(value)
