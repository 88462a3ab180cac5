"""The tensors that flow through a module's call, found among the arguments of its forward."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bwcache.errors import SpecMismatchError, complaint

_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Stream:
    """A tensor that flows through a module: the argument's name and its position among the positional ones.

    The position is None where it is no argument: a value that a module only returns. Of a tuple of tensors, as one
    argument, each is a stream: "x[0]", whose `index` is 0.
    """

    name: str
    position: int | None
    index: int | None = None

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the stream's value in a call of the module, or None."""
        name = self.name if self.index is None else self.name.partition("[")[0]
        if name in kwargs:
            found = kwargs[name]
        else:
            found = args[self.position] if self.position is not None and self.position < len(args) else None
        return found if self.index is None or found is None else found[self.index]

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

    What takes `*args, **kwargs` and stands over another forward, on this one instance or in a class that derives from
    the one that knows, names nothing: then that one is asked.
    """
    module = uncompiled(module)
    if not takes_anything(module.forward):
        return list(inspect.signature(module.forward).parameters)
    for base in type(module).__mro__:
        names = (
            list(inspect.signature(vars(base)["forward"]).parameters.values())[1:] if "forward" in vars(base) else []
        )
        if any(parameter.kind not in _OPEN for parameter in names):
            return [parameter.name for parameter in names]
    return list(inspect.signature(module.forward).parameters)


def takes_anything(function: Callable[..., Any]) -> bool:
    """Return whether a function takes `*args, **kwargs` and names nothing, but for what it is given already."""
    names = list(inspect.signature(function).parameters.values())
    if isinstance(function, functools.partial) and getattr(function, "__wrapped__", None) is function.func:
        names = names[len(function.args) :]  # as older hooks of diffusers: told as if nothing were given
    return all(parameter.kind in _OPEN for parameter in names)


def stream_of(
    module: nn.Module, name: str, where: str, returned: bool = False, function: Callable[..., Any] | None = None
) -> Stream:
    """Return the stream of that name of a module.

    Args:
        where: the module's place, for people.
        returned: whether it may be no argument, but a value that the module only returns.
        function: what is called in the place of the module.

    Raises:
        SpecMismatchError: its forward has no such argument.
    """
    names = parameters(module) if function is None else list(inspect.signature(function).parameters)
    argument, bracket, index = name.partition("[")
    if argument in names:
        return Stream(name, names.index(argument), int(index[:-1]) if bracket else None)
    if returned:
        return Stream(name, None)
    raise SpecMismatchError(
        complaint(
            f"forward({', '.join(names)}) of {where} ({type(module).__name__})",
            f"an argument {argument!r}",
            "correct the row: the argument was renamed, or this is another version of the class",
        )
    )
