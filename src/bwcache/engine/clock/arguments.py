"""What a denoiser is given, argument by argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from bwcache.engine.clock.conditions import Condition
from bwcache.models import BlockStack


class Arguments:
    """Reads the arguments of a denoiser's forward: what it works on, what it is conditioned on, and the rest."""

    def __init__(self, stack: BlockStack) -> None:
        self.stack = stack
        self._conditions = tuple((stream.name, stream.position) for stream in stack.conditions)
        self._known = stack.known_arguments

    def time(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the timestep argument: a number, or a tensor of any shape."""
        return self.stack.timestep.read(args, kwargs)

    def condition(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Condition:
        """Return what the forward is conditioned on."""
        values: list[Any] = []
        for name, position in self._conditions:
            if name in kwargs:
                value = kwargs[name]
            else:
                value = args[position] if position is not None and position < len(args) else None
            if isinstance(value, (list, tuple, Mapping)):
                values.extend(item for _, item in leaves(value))
            else:
                values.append(value)
        return Condition(values)

    def options(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str | int, Any]:
        """Return how the forward was asked to run: its flags, words and choices of blocks, and which tensors it has.

        Numbers and the contents of tensors are left out: they may change in every step (guidance scales, residuals).
        """
        found: dict[str | int, Any] = {}
        given: Iterable[tuple[str | int, Any]] = [*enumerate(args), *kwargs.items()] if args else kwargs.items()
        for name, value in given:
            if name not in self._known:
                plain = value is None or value is True or value is False
                found[name] = value if plain else _option(value)
        return found


def channels(module: nn.Module) -> int | None:
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
