"""The tensors that flow through a module's call, found among the arguments of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bwcache.errors import SpecMismatch, complaint

_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Stream:
    """A tensor that flows through a module: the argument's name and its position among the positional ones.

    The position is None where it is no argument: a value that a module only returns.
    """

    name: str
    position: int | None

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the stream's value in a call of the module, or None."""
        if self.name in kwargs:
            return kwargs[self.name]
        return args[self.position] if self.position is not None and self.position < len(args) else None

    def replaced(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments of a call with another value of the stream."""
        if self.name in kwargs or self.position is None:
            return args, {**kwargs, self.name: value}
        return (*args[: self.position], value, *args[self.position + 1 :]), kwargs


def uncompiled(module: Any) -> Any:
    """Return the module that `torch.compile` wrapped, or the module itself."""
    wrapped = getattr(module, "_orig_mod", None)
    return module if wrapped is None else wrapped


def parameters(module: nn.Module) -> list[str]:
    """Return the names of the arguments of a module's forward.

    Where somebody has put a function over it on this one instance that takes `*args, **kwargs`, its class knows them.
    """
    module = uncompiled(module)
    own = inspect.signature(module.forward).parameters
    if "forward" in vars(module) and all(parameter.kind in _OPEN for parameter in own.values()):
        return list(inspect.signature(type(module).forward).parameters)[1:]
    return list(own)


def stream_of(
    module: nn.Module, name: str, where: str, returned: bool = False, function: Callable[..., Any] | None = None
) -> Stream:
    """Return the stream of that name of a module.

    Args:
        where: the module's place, for people.
        returned: whether it may be no argument, but a value that the module only returns.
        function: what is called in the place of the module.

    Raises:
        SpecMismatch: its forward has no such argument.
    """
    names = parameters(module) if function is None else list(inspect.signature(function).parameters)
    if name in names:
        return Stream(name, names.index(name))
    if returned:
        return Stream(name, None)
    raise SpecMismatch(
        complaint(
            f"forward({', '.join(names)}) of {where} ({type(module).__name__})",
            f"an argument {name!r}",
            "correct the row: the argument was renamed, or this is another version of the class",
        )
    )
