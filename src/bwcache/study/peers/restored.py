"""A pipeline as it was before, whatever a peer left behind.

Peers leave more than their own `disable` takes back: a registry on every module, a bound `forward`, a flag or a new
`__call__` on the pipeline's class, another order of the children. So what stood there is noted and put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def restored(pipe: Any, denoisers: Iterable[nn.Module]) -> Iterator[None]:
    """Puts back, when it ends: attributes and children of every part of the denoisers, the pipeline and its class.

    Values that the pipeline itself changes, on itself, stay; attributes that it did not have before go.
    """
    parts = {id(part): part for module in denoisers for part in module.modules()}
    modules = [(part, dict(vars(part)), dict(part._modules)) for part in parts.values()]
    names, of_class = set(vars(pipe)), dict(vars(type(pipe)))
    try:
        yield
    finally:
        for part, attributes, children in modules:
            _put_back(part, attributes)
            if list(part._modules.items()) != list(children.items()):
                part._modules.clear()
                part._modules.update(children)
        for name in set(vars(pipe)) - names:
            vars(pipe).pop(name)
        _put_back_class(type(pipe), of_class)


def _put_back(part: nn.Module, before: dict[str, Any]) -> None:
    now = vars(part)
    for name in now.keys() - before.keys():
        del now[name]
    for name, value in before.items():
        if now.get(name) is not value or name not in now:
            now[name] = value


def _put_back_class(kind: type, before: dict[str, Any]) -> None:
    for name in set(vars(kind)) - before.keys():
        delattr(kind, name)
    for name, value in before.items():
        if vars(kind).get(name) is not value:
            setattr(kind, name, value)
