"""What a denoiser is given, argument by argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from torch import Tensor, nn

from bwcache.models import BlockStack
from bwcache.models.streams import Stream


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


def latents(stack: BlockStack, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return what the denoiser works on, `[B, …]`: its first tensor of at least three sizes that is no condition.

    None if there is no such; some take a list.
    """
    for value in _others(args, kwargs, (stack.timestep, *stack.conditions)):
        if isinstance(value[1], Tensor) and value[1].ndim >= 3:
            return value[1]
    return None


def channels(module: nn.Module) -> int | None:
    """Return how many channels a denoiser makes; what a pipeline lays behind these (an image to go by) may differ."""
    made = getattr(getattr(module, "config", None), "out_channels", None)
    return made if isinstance(made, int) else None


def options(args: Sequence[Any], kwargs: Mapping[str, Any], left_out: Sequence[Stream]) -> tuple[Any, ...]:
    """Return how a forward was asked to run: its flags, words and choices of blocks, and which tensors it has.

    Numbers and the contents of tensors are left out: they may change in every step (guidance scales, residuals).

    Args:
        left_out: arguments that do not count.
    """
    return tuple((name, _option(value)) for name, value in sorted(_others(args, kwargs, left_out), key=itemgetter(0)))


def _others(args: Sequence[Any], kwargs: Mapping[str, Any], left_out: Sequence[Stream]) -> Iterator[tuple[str, Any]]:
    """The arguments, each with its name or position, but for some."""
    positions = {stream.position for stream in left_out}
    names = {stream.name for stream in left_out}
    yield from ((str(i), value) for i, value in enumerate(args) if i not in positions)
    yield from ((name, value) for name, value in kwargs.items() if name not in names)


def _option(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (list, tuple)):
        whole = all(type(item) is int for item in value)
        return tuple(value) if whole else tuple(_option(item) for item in value)
    if isinstance(value, Mapping):
        return tuple((str(key), _option(item)) for key, item in value.items())
    return Tensor if isinstance(value, Tensor) else type(value)
