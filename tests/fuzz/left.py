"""What a session leaves behind: on modules and pipelines, and alive."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn


def found_on(actors: Iterable[Any]) -> dict[str, Any]:
    """What is on pipelines, their schedulers and denoisers: names of attributes and the kinds of what hooks hold."""
    found: dict[str, Any] = {}
    for actor in actors:
        found[actor.name] = _described(actor.pipe)
        found[f"{actor.name}.scheduler"] = _described(actor.pipe.scheduler)
        for name, module in actor.modules.items():
            for path, part in module.named_modules():
                found[f"{actor.name}.{name}.{path}"] = _described(part)
            found[f"{actor.name}.{name} state"] = list(module.state_dict())
    return found


def _described(owner: Any) -> dict[str, Any]:
    held = dict(vars(owner))
    shown = {name: sorted(map(_kind, value.values())) for name, value in held.items() if isinstance(value, dict)}
    return {"class": type(owner).__name__} | {name: shown.get(name, _kind(value)) for name, value in held.items()}


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"


BY_OTHERS = {"_diffusers_hook"}
"""What pipelines set on a denoiser when they first call it."""


def differences(before: dict[str, Any], after: dict[str, Any], modules: bool = False) -> list[str]:
    """In words, what is not the same.

    Args:
        before, after: as `found_on` found it.
        modules: whether to look at the denoisers' modules alone, and pass over what is set `BY_OTHERS`.
    """
    found = []
    for where in sorted({*before, *after}):
        if modules and where.count(".") < 2:
            continue
        was, now = before.get(where), after.get(where)
        if isinstance(was, dict) and isinstance(now, dict):
            names = sorted({*was, *now} - (BY_OTHERS if modules else set()))
            found += [f"{where}: {n} is {now.get(n)}, was {was.get(n)}" for n in names if was.get(n) != now.get(n)]
        elif was != now:
            found.append(where)
    return found


def of_bwcache(module: nn.Module) -> list[str]:
    """Objects of the package that hang on a module or one of its parts."""
    found = []
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            values = value.values() if isinstance(value, dict) else (value,)
            found += [f"{path}.{name}" for each in values if _is_of_bwcache(each)]
    return found


def _is_of_bwcache(value: Any) -> bool:
    where = getattr(value, "__module__", None) or type(value).__module__
    return isinstance(where, str) and where.split(".")[0] == "bwcache" and not _stands_for_nothing(value)


def _stands_for_nothing(value: Any) -> bool:
    """What a copy holds in the place of a hook of the original: a function that does nothing."""
    return isinstance(value, types.FunctionType) and value.__code__.co_code == _nothing.__code__.co_code


def _nothing(*args: Any) -> None:
    pass


def features_held(root: Any, modules: Iterable[nn.Module]) -> int:
    """How many tensors that are more than a list of numbers (of times) can be reached from an object.

    Not through modules, pipelines and code; parameters and buffers of these modules do not count.
    """
    own = {id(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.ndim > 1 and id(tensor) not in own for tensor in _reached(root))


def bytes_held(session: Any, modules: Iterable[nn.Module]) -> Iterator[tuple[int, int]]:
    """Of each run in progress, how many bytes of tensors its lanes hold, and how many its trace says they do."""
    own = {tensor.untyped_storage().data_ptr() for module in modules for tensor in module.parameters()}
    for run in list(session._runs):
        storages = [tensor.untyped_storage() for tensor in _reached(list(run.lanes.values()))]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in own}
        yield sum(held.values()), run.trace.peak_bytes


def _reached(root: Any) -> Iterator[Tensor]:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, types.FunctionType):
            waiting += [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
            waiting += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        elif isinstance(value, types.MethodType):
            waiting += [value.__self__, value.__func__]
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif hasattr(value, "func") and hasattr(value, "args") and hasattr(value, "keywords"):
            waiting += [value.func, value.args, value.keywords]
        elif type(value).__module__.split(".")[0] == "bwcache" or type(value).__name__ in ("deque", "defaultdict"):
            waiting += _attributes(value)


def _attributes(value: Any) -> list[Any]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    held = [getattr(value, name, None) for name in slots if isinstance(name, str)]
    return [*held, *getattr(value, "__dict__", {}).values()]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
