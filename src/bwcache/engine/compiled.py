"""A denoiser that was compiled as a whole, taken apart for as long as a session is attached.

In one graph nothing can be decided between the blocks. So the compiled call of the whole is set aside, and each block
is compiled by itself with the very options of the whole: the same backend, mode and `fullgraph`. Blocks of one class
share their graph, as with `compile_repeated_blocks`. What lies outside of the blocks runs uncompiled meanwhile. When
the session leaves, the compiled call stands again where it was found, with all that it had compiled.

One option is left out: CUDA graphs (`mode="reduce-overhead"` and `"max-autotune"` have them). Each replayed graph may
overwrite what the one before it returned, and between two blocks that is what the second one reads: torch raises.

A whole can be compiled in three ways, before the session or during it: `torch.compile(module)` makes a wrapper that
pipelines then hold, `module.compile()` sets the module's call, and `module.forward = torch.compile(module.forward)` is
common in native code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from bwcache.engine import hooks
from bwcache.errors import AttachError, complaint, warn
from bwcache.models import BlockStack, uncompiled

PLACES = ("forward", hooks.CALL, "_old_forward")
"""Attributes of a module or of its wrapper that may hold the compiled call; the last is where accelerate keeps it."""

CUDA_GRAPHS = "triton.cudagraphs"
"""Inductor's option."""


class CompiledDenoiser:
    """One denoiser, seen as something that may be compiled as a whole."""

    def __init__(self, undo: ExitStack, stack: BlockStack, look: Callable[[], Any]) -> None:
        """Sets aside what is compiled; to be made before any interceptor is.

        `interceptors` are those of its places, which compiled blocks are put beneath. `outer` and `forward` are what
        `look` found and what stood over the module's forward, when it was last taken apart; `is_around` tells whether
        a module that `torch.compile` made is being called (never, where torch does not say).

        Args:
            undo: what undoes it.
            stack: the denoiser.
            look: finds what callers call in its place now: the module, the wrapper that `torch.compile` made of it, or
                None where that is unknown.

        Raises:
            AttachError: it is compiled in a way that cannot be set aside.
        """
        self._stack, self._module, self.look = stack, stack.module, look
        self.is_around: Callable[[], bool] = getattr(torch._dynamo.eval_frame, "_is_in_optimized_module", bool)
        self._stands: list[_Stand] = []
        self._parts: list[hooks.Override] = []
        self.interceptors: Sequence[hooks.Override] = ()
        self._call: Callable[..., Any] | None = None
        self._warned = False
        self._owners: list[nn.Module] = [stack.module]
        undo.callback(self._put_back)
        self._take()

    def watch(self, undo: ExitStack) -> None:
        """Also take apart what is compiled from now on."""
        hooks.stand_before(undo, self._module, "compile", self._at_compile)

    def check(self) -> None:
        """Where anything is not what it was as the denoiser is called: see whether it was compiled; take it apart."""
        if self.look() is not self.outer or vars(self._module).get("forward") is not self.forward:
            self._take()
        elif not self._warned and (self.outer is not self._owners[0] or self.outer is self._module):
            self._warn_if_compiled_around()

    def _at_compile(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`module.compile()` while attached: its call waits until the session leaves, its options hold at once."""

        def compile_blocks_instead(*args: Any, **kwargs: Any) -> None:
            attached = self._module._compiled_call_impl
            inner(*args, **kwargs)
            self._call, self._module._compiled_call_impl = self._module._compiled_call_impl, attached
            context = _context(self._call)
            if context is not None:
                self._compile_blocks(context)

        return compile_blocks_instead

    def _take(self) -> None:
        self.outer = self.look()
        if isinstance(self.outer, nn.Module) and uncompiled(self.outer) is self._module:
            self._owners = [self.outer, *(owner for owner in self._owners if owner is not self.outer)]
        contexts = []
        for owner, name, call in self._held():
            context = _context(call)
            if context is not None:
                contexts.append(context)
                self._stands.append(_Stand(call))
                setattr(owner, name, self._stands[-1])
        if contexts:
            self._compile_blocks(contexts[0])
        elif self._is_hidden():
            raise AttachError(
                complaint(
                    f"{self._stack.name} compiled as a whole, under a forward that something else has patched since",
                    "that torch.compile came last",
                    "compile after the rest is switched on, or use transformer.compile_repeated_blocks()",
                )
            )
        self.forward = vars(self._module).get("forward")

    def _held(self) -> list[tuple[nn.Module, str, Any]]:
        return [(owner, name, vars(owner).get(name)) for owner in self._owners for name in PLACES]

    def _is_hidden(self) -> bool:
        """Whether the compiled call of the wrapper that is in use is in none of the places."""
        is_wrapper = self.outer is self._owners[0] and self.outer is not self._module
        set_aside = any(isinstance(value, _Stand) for _, _, value in self._held())
        return is_wrapper and not set_aside and _compiles(getattr(self.outer, "dynamo_ctx", None))

    def _warn_if_compiled_around(self) -> None:
        if self.is_around():
            self._warned = True
            warn(
                f"{self._stack.name} was called from within a compiled module that is not its own: its blocks run "
                "uncompiled. Attach to what torch.compile returned, or compile the blocks"
            )

    def _compile_blocks(self, context: Any) -> None:
        """Compiles each block that is not compiled yet, in the whole's context, beneath the interceptors."""
        if any(block.hook is not None for block in self._stack.blocks):
            raise AttachError(
                complaint(
                    f"{self._stack.name} compiled as a whole",
                    "blocks that are called one by one; here a function is called in their place",
                    "attach before it is compiled, and compile nothing but parts of the blocks",
                )
            )
        context = without_cuda_graphs(context)
        for override in [*reversed(self.interceptors), *reversed(self._parts)]:
            override.restore()
        modules = [block.module for block in self._stack.blocks if not hasattr(block.module, "_orig_mod")]
        self._parts = [
            hooks.Override(module, hooks.CALL, functools.partial(_compiled_unless, context, module))
            for module in modules
        ]
        for override in self.interceptors:
            override.renew()

    def _put_back(self) -> None:
        for part in reversed(self._parts):
            part.restore()
        for owner, name, value in self._held():
            if value in self._stands:
                setattr(owner, name, value.compiled)
        for stand in self._stands:
            stand.idle = True
        if self._call is not None:
            self._module._compiled_call_impl = self._call


def is_within(module: nn.Module, path: str) -> bool:
    """Whether the module at that path lies in a part of the denoiser that is compiled as one: a graph is left alone."""
    part: Any = module
    for name in path.split(".")[:-1]:
        part = getattr(part, name)
        compiled = hooks.compiled_call(part) is not None or hasattr(part, "_orig_mod")
        if compiled or _context(vars(part).get("forward")) is not None:
            return True
    return False


class _Stand:
    """Stands in the place of a compiled call, and calls what it compiled; once idle, or in a copy, it is that call."""

    def __init__(self, compiled: Callable[..., Any]) -> None:
        functools.update_wrapper(self, compiled, updated=())
        self.compiled = compiled
        self.idle = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.compiled if self.idle else self.compiled._torchdynamo_orig_callable  # type: ignore[attr-defined]
        return call(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _itself, (self.compiled,)


def _itself(value: Any) -> Any:
    return value


def _compiles(context: Any) -> bool:
    return isinstance(context, torch._dynamo.eval_frame.OptimizeContext)


def _context(call: Any) -> Any:
    """The options that a call was compiled with, which compile another function likewise; None if it is not compiled.

    `torch.compile` hands out a closure, and what it was asked for is in there.
    """
    cells = getattr(call, "__closure__", None) or ()
    return next((cell.cell_contents for cell in cells if _compiles(cell.cell_contents)), None)


def without_cuda_graphs(context: Any) -> Any:
    """Options that compile likewise, but into no CUDA graphs."""
    outer: Any = getattr(context.callback, "_torchdynamo_orig_backend", None)
    backend: Any = outer
    while (inner := getattr(backend, "_torchdynamo_orig_backend", None)) is not None:
        backend = inner
    asked = getattr(backend, "config", None)  # of inductor: what differs from its own settings
    if not isinstance(asked, dict) or not asked.get(CUDA_GRAPHS, torch._inductor.config.triton.cudagraphs):
        return context
    whole = getattr(outer, "_one_graph", False)
    made = torch.compile(_itself, fullgraph=whole, dynamic=backend.dynamic, options={**asked, CUDA_GRAPHS: False})
    return _context(made)


def _compiled_unless(context: Any, module: nn.Module, present: Any) -> Any:
    """The module's call, compiled by `context` unless it already is compiled."""
    return context(module._call_impl) if present is None else present
