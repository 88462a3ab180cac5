"""Whether a live module runs the forward that its row was proven on, and no other cache has its hand in it.

Classes that derive from a row's class have its row too. It describes what they run only as long as they leave the
forward alone: what they put in its place may read more than the last block's output, and a replay would make another
video.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from bwcache.errors import AttachError, NotProvenError, complaint
from bwcache.models import table
from bwcache.models.places import inside, named_modules
from bwcache.models.spec import BlockSpec
from bwcache.models.stack import BlockStack
from bwcache.models.streams import takes_anything, uncompiled

_OTHER_CACHES = {"cache_dit": "cache-dit", "para_attn": "ParaAttention", "DeepCache": "DeepCache"}
"""Packages that put a function over a denoiser's forward, or blocks in the place of its own, by their name."""

_HARMLESS = ("accelerate.", "torch.", "diffusers.hooks.")
"""Whose functions stand over a forward and run it all the same."""

_CACHE_HOOK = re.compile(r"diffusers\.hooks\.\w*(cache|broadcast)")


def expect_free(name: str, module: nn.Module) -> None:
    """Raise where another cache is at work.

    Raises:
        AttachError: with its name.
    """
    cache = _cache_over(module) or _cache_hook(module)
    if cache is not None:
        raise _two_caches(cache, name)


def _two_caches(cache: str, name: str) -> AttachError:
    return AttachError(
        complaint(f"{cache} at work on {name}", "one cache at a time", "disable it first, or leave the session for it")
    )


def expect_still_free(stack: BlockStack, own_forward: bool = True) -> None:
    """Raise where another cache, or a strange forward, was put on since the stack was resolved.

    Args:
        own_forward: whether the forward has to be its class's own, as for rows of the table.

    Raises:
        AttachError: with its name.
    """
    expect_free(stack.name, stack.module)
    if own_forward:
        _expect_own_forward(stack.module, stack.spec)


def expect_own_blocks(stack: BlockStack) -> None:
    """Raise where other modules stand in the place of the blocks, as the module is at present.

    Raises:
        AttachError: with the name of what stands there.
    """
    there: dict[str, nn.Module] = {}
    for part in stack.spec.lists:
        there |= named_modules(inside(stack.module, part.path), part.path)
    for block in stack.blocks:
        found = there.get(block.name)
        if found is block.module or (found is not None and uncompiled(found) is block.module):
            continue
        package = "" if found is None else type(found).__module__
        if package.split(".")[0] in _OTHER_CACHES:
            raise _two_caches(_OTHER_CACHES[package.split(".")[0]], stack.name)
        if not package.startswith("torch."):
            what = "nothing" if found is None else _named(type(found))
            raise AttachError(
                complaint(
                    f"{what} in the place of {block.name} of {stack.name}",
                    "the blocks that the session was attached to (does another cache stand there?)",
                    "disable it, or attach again: bwcache.enable(…, replace=True)",
                )
            )


def stranger_over(stack: BlockStack) -> str | None:
    """Return the name of a function that stands over the denoiser's own forward, or None."""
    kind = type(stack.module)
    own = {inspect.unwrap(value) for base in kind.__mro__ for value in vars(base).values() if inspect.isfunction(value)}
    over = _layers(vars(stack.module).get("forward"))
    found = next((layer for layer in over if layer not in own and not layer.__module__.startswith(_HARMLESS)), None)
    return None if found is None else f"{found.__qualname__} of {found.__module__}"


def _cache_over(module: nn.Module) -> str | None:
    """Return the name of the cache whose function stands over the module's forward, or None."""
    packages = (function.__module__.split(".")[0] for function in _layers(module.forward))
    return next((_OTHER_CACHES[package] for package in packages if package in _OTHER_CACHES), None)


def _cache_hook(module: nn.Module) -> str | None:
    """Return the class of a caching hook of diffusers somewhere in the module, or None."""
    for part in module.modules():
        hooks = getattr(vars(part).get("_diffusers_hook"), "hooks", {})
        for hook in hooks.values():
            if _CACHE_HOOK.match(type(hook).__module__):
                return f"{type(hook).__name__} of diffusers"
    return None


def expect_proven(module: nn.Module, spec: BlockSpec, blocks: Iterable[nn.Module]) -> None:
    """Raise where the module runs something else than what its row, out of the table, was proven on.

    Raises:
        NotProvenError: its class or that of a block derives from one that is known, and has a forward of its own.
        AttachError: somebody has put another function in the place of the forward.
    """
    kind = type(module)
    owner = next(base for base in kind.__mro__ if table.row(base.__name__, base.__module__) is spec)
    overridden = next((name for name in _used(owner) if _is_overridden(kind, owner, name)), None)
    if overridden is not None:
        raise _not_proven(f"{_named(kind)}, which has a {overridden} of its own", owner)
    for block in {type(block) for block in blocks}:
        base = _overridden_block(block, spec)
        if base is not None:
            raise _not_proven(f"blocks of {_named(block)}, which has a forward of its own", base)
    _expect_own_forward(module, spec)


def _expect_own_forward(module: nn.Module, spec: BlockSpec) -> None:
    kind = type(module)
    stranger = _stranger(module, kind)
    if stranger is not None and f"{stranger.__module__}.{stranger.__qualname__}" not in spec.forwards:
        own = "" if spec.module_prefix == "diffusers." else f", {spec.module_prefix!r}"
        raise AttachError(
            complaint(
                f"{stranger.__qualname__} of {stranger.__module__} in the place of {kind.__name__}.forward",
                "its own forward, which its row was proven on (does another cache stand there?)",
                f"put it back, or pass spec=bwcache.models.row({spec.model!r}{own}) if you know that the row fits",
            )
        )


def _not_proven(found: str, base: type) -> NotProvenError:
    return NotProvenError(
        complaint(
            found,
            f"that of {base.__name__}, which its row was proven on",
            "prove it: attach(…, spec=bwcache.discover(module, inputs))",
        )
    )


def _used(owner: type) -> Iterator[str]:
    """Yield the names of the methods that a forward consists of."""
    yield "forward"
    code = getattr(inspect.unwrap(owner.forward), "__code__", None)  # type: ignore[attr-defined]
    for name in () if code is None else code.co_names:
        if inspect.isfunction(inspect.getattr_static(owner, name, None)):
            yield name


def _is_overridden(kind: type, owner: type, name: str) -> bool:
    return any(name in vars(base) for base in kind.__mro__[: kind.__mro__.index(owner)])


def _overridden_block(kind: type, spec: BlockSpec) -> type | None:
    """Return the class of the row's own code whose forward a block's class replaces, or None."""
    own, *bases = (base for base in kind.__mro__ if "forward" in vars(base))
    if own.__module__.startswith(spec.module_prefix):
        return None
    return next((base for base in bases if base.__module__.startswith(spec.module_prefix)), None)


def _stranger(module: nn.Module, kind: type) -> Callable[..., Any] | None:
    """Return the function that runs as the forward and is none of the class's, or None.

    One on the instance that takes `*args, **kwargs` is taken for what stands around the class's own.
    """
    definer = next(base for base in kind.__mro__ if "forward" in vars(base))
    layers = list(_layers(vars(definer)["forward"]))
    if not any(_is_of(layer, definer) for layer in layers):
        return layers[0]
    over = vars(module).get("forward")
    if over is None or takes_anything(over):
        return None
    own = {inspect.unwrap(value) for base in kind.__mro__ for value in vars(base).values() if inspect.isfunction(value)}
    layers = list(_layers(over))
    return None if not layers or any(layer in own for layer in layers) else layers[0]


def _is_of(function: Callable[..., Any], kind: type) -> bool:
    return function.__module__ == kind.__module__ or function.__qualname__.startswith(f"{kind.__qualname__}.")


def _layers(function: Any) -> Iterator[Callable[..., Any]]:
    """Yield the functions that a callable consists of, from the outside in."""
    while function is not None:
        while isinstance(function, functools.partial):
            if inspect.isfunction(function.func):
                yield function.func
            function = getattr(function, "__wrapped__", function.func)
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function):
            yield function
        function = getattr(function, "__wrapped__", None)


def _named(kind: type) -> str:
    return f"{kind.__name__} ({kind.__module__})"
